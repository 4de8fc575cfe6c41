"""Reads what the gateway gave back with somebody else's program (pyarrow) and compares it with the source.

Arguments: SOURCE.parquet, PULLED.parquet, PULLED_FROM_CSV.parquet, REGION.parquet, REGION.csv, REGION.arrow, REGION.jsonl,
REGION.xlsx (read by openpyxl), REGION.gb.csv (GB18030), region.
Prints one JSON document; ends with 1 and a sentence where something differs.
"""

import decimal
import json
import sys

import openpyxl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

COLUMNS = ["l_orderkey", "l_extendedprice", "region"]


def sums(table):
    out = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_decimal(field.type):
            column = column.cast(pa.decimal256(40, field.type.scale))
        elif pa.types.is_integer(field.type):
            column = column.cast(pa.int64())
        else:
            continue
        out[field.name] = str(pc.sum(column).as_py())
    return out


def check(holds, why):
    if not holds:
        sys.exit(f"differs: {why}")


def ordered(table):
    return table.select(COLUMNS).sort_by([(name, "ascending") for name in COLUMNS]).combine_chunks()


(source_path, whole, whole_from_csv, region_parquet, region_csv, region_arrow, region_jsonl, region_xlsx, region_gb,
 region) = sys.argv[1:]
source = pq.read_table(source_path)
expected = sums(source)
for path in (whole, whole_from_csv):
    pulled = pq.read_table(path)
    check(pulled.num_rows == source.num_rows, f"{path} has {pulled.num_rows} rows, the source {source.num_rows}")
    check(sorted(pulled.column_names) == sorted(source.column_names), f"columns of {path}")
    check(sums(pulled) == expected, f"sums of {path}: {sums(pulled)}, expected {expected}")

wanted = ordered(source.filter(pc.starts_with(source["region"], region)))
check(wanted.num_rows > 0, f"the source has no row of {region}")
types = {name: wanted.schema.field(name).type for name in COLUMNS}
with pa.memory_map(region_arrow) as file:
    arrow = pa.ipc.open_file(file).read_all()


def of_rows(rows):
    """Rows of plain Python values, a decimal being text or a number of at most 15 digits."""
    scale = types["l_extendedprice"].scale
    price = lambda value: decimal.Decimal(str(value)).quantize(decimal.Decimal(1).scaleb(-scale))
    columns = {
        "l_orderkey": [int(row["l_orderkey"]) for row in rows],
        "l_extendedprice": [price(row["l_extendedprice"]) for row in rows],
        "region": [row["region"] for row in rows],
    }
    return pa.table({name: pa.array(columns[name], types[name]) for name in COLUMNS})


def of_sheet(path):
    rows = openpyxl.load_workbook(path, read_only=True).active.iter_rows(values_only=True)
    names = next(rows)
    return of_rows([dict(zip(names, row)) for row in rows])


gb = pyarrow.csv.ReadOptions(encoding="gb18030")
options = pyarrow.csv.ConvertOptions(column_types=types)
for path, pulled in (
    (region_parquet, pq.read_table(region_parquet)),
    (region_csv, pyarrow.csv.read_csv(region_csv, convert_options=options)),
    (region_arrow, arrow),
    (region_jsonl, of_rows([json.loads(line) for line in open(region_jsonl, encoding="utf-8")])),
    (region_xlsx, of_sheet(region_xlsx)),
    (region_gb, pyarrow.csv.read_csv(region_gb, read_options=gb, convert_options=options)),
):
    check(sorted(pulled.column_names) == sorted(COLUMNS), f"columns of {path}: {pulled.column_names}")
    pulled = ordered(pulled).cast(wanted.schema)
    check(pulled.equals(wanted), f"rows of {path} ({pulled.num_rows}, the filter gives {wanted.num_rows})")

print(json.dumps({"rows": source.num_rows, "sums": expected, "region": region, "region_rows": wanted.num_rows}))
