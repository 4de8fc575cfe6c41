"""Serves a Parquet file by Arrow Flight with mutual TLS, from the file and from memory, and takes it in another process.

Arguments: SOURCE.parquet, folder with ca.pem, server.pem, server.key, client.pem, client.key.
Prints one JSON document: bytes of Arrow and seconds, of DoGet cold (decoded as it is sent) and hot (from memory).
"""

import json
import multiprocessing
import sys
import time

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

BATCH_ROWS = 65536


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Server(flight.FlightServerBase):
    def __init__(self, source, folder):
        pair = (read(f"{folder}/server.pem"), read(f"{folder}/server.key"))
        super().__init__("grpc+tls://127.0.0.1:0", tls_certificates=[pair], verify_client=True,
                         root_certificates=read(f"{folder}/ca.pem"))
        self.source = source
        self.table = None

    def do_get(self, context, ticket):
        if ticket.ticket == b"load":
            # Once, and not measured: what is hot lies in memory.
            self.table = pq.read_table(self.source)
            return flight.RecordBatchStream(self.table.slice(0, 0))
        if ticket.ticket == b"hot":
            reader = pa.RecordBatchReader.from_batches(self.table.schema, self.table.to_batches(BATCH_ROWS))
            return flight.RecordBatchStream(reader)
        file = pq.ParquetFile(self.source)
        return flight.GeneratorStream(file.schema_arrow, file.iter_batches(batch_size=BATCH_ROWS))


def serve(source, folder, ports):
    server = Server(source, folder)
    ports.put(server.port)
    server.serve()


def take(client, ticket):
    since = time.perf_counter()
    reader = client.do_get(flight.Ticket(ticket))
    rows = bytes_ = 0
    first = None
    while True:
        try:
            batch = reader.read_chunk().data
        except StopIteration:
            break
        first = first or time.perf_counter() - since
        rows += batch.num_rows
        bytes_ += batch.nbytes
    return {"rows": rows, "bytes": bytes_, "seconds": time.perf_counter() - since, "first_seconds": first or 0}


if __name__ == "__main__":
    source, folder = sys.argv[1:]
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=serve, args=(source, folder, ports), daemon=True)
    process.start()
    client = flight.FlightClient(f"grpc+tls://127.0.0.1:{ports.get(timeout=60)}",
                                 tls_root_certs=read(f"{folder}/ca.pem"), cert_chain=read(f"{folder}/client.pem"),
                                 private_key=read(f"{folder}/client.key"), override_hostname="localhost")
    cold = take(client, b"cold")
    take(client, b"load")
    print(json.dumps({"pyarrow": pa.__version__, "cold": cold, "hot": take(client, b"hot")}))
    process.kill()
