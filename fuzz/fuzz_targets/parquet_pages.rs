#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lingqu_tests::decoders::parquet_pages(data));
