//! Compiles the control messages. protox is a protobuf compiler in Rust: a fresh machine has no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/lingqu.proto");
    let descriptors = protox::compile(["proto/lingqu.proto"], ["proto"])?;
    prost_build::Config::new().bytes([".lingqu.v1"]).compile_fds(descriptors)?;
    Ok(())
}
