#!/usr/bin/env python3
"""A client of the coordinator that was written from its .proto files alone.

The modules lockstep.v1.*_pb2 are made by protoc, e.g.

    protoc -I coordinator/proto --python_out=OUT --grpc_out=OUT \
      --plugin=protoc-gen-grpc=$(which grpc_python_plugin) \
      lockstep/v1/run.proto lockstep/v1/run_service.proto

and found through PYTHONPATH=OUT.

    python_client.py ADDRESS submit CONFIG TOKENS OUTPUT   submits, watches and follows a run
    python_client.py ADDRESS wrong                         shows what refusals look like
"""

import sys
import threading
import uuid

import grpc

from lockstep.v1 import run_pb2, run_service_pb2, run_service_pb2_grpc

DEADLINE = 30  # seconds, of a unary call
ENDED = (run_pb2.Run.SUCCEEDED, run_pb2.Run.FAILED, run_pb2.Run.CANCELLED)


def watch(stub, ready, ended):
    """Prints every event until a run has ended."""
    stream = stub.WatchRuns(run_service_pb2.WatchRunsRequest(from_sequence=0))
    ready.set()
    for event in stream:
        print("event", event.kind, flush=True)
        print("state", run_pb2.Run.State.Name(event.run_after.state), flush=True)
        if event.run_after.state in ENDED:
            break
    stream.cancel()
    ended.set()


def submit(stub, config, tokens, output):
    with open(config, encoding="utf-8") as file:
        text = file.read()
    run = run_pb2.Run(
        display_name="from Python",
        config_yaml=text,
        overrides=[f"run.output={output}", f"data.train={tokens}", f"data.validation={tokens}"],
        resources=run_pb2.Resources(ranks=2),
        labels={"language": "python"},
        hold=True,
    )
    request = run_service_pb2.CreateRunRequest(run=run, request_id=str(uuid.uuid4()))
    created = stub.CreateRun(request, timeout=DEADLINE)
    again = stub.CreateRun(request, timeout=DEADLINE)
    assert again.replayed and again.run.uid == created.run.uid, "one request id made two runs"
    for event in stub.ListEvents(
        run_service_pb2.ListEventsRequest(name=created.run.uid), timeout=DEADLINE
    ).events:
        print("event", event.kind, flush=True)

    ready, ended = threading.Event(), threading.Event()
    watcher = threading.Thread(target=watch, args=(stub, ready, ended), daemon=True)
    watcher.start()
    ready.wait(DEADLINE)
    update = run_service_pb2.UpdateRunRequest(
        run=run_pb2.Run(name=created.run.name, hold=False), request_id=str(uuid.uuid4())
    )
    update.update_mask.paths.append("hold")
    stub.UpdateRun(update, timeout=DEADLINE)

    logs = stub.ReadLogs(run_service_pb2.ReadLogsRequest(name=created.run.uid, follow=True))
    verdict = None
    for chunk in logs:
        for line in chunk.data.decode("utf-8", "replace").splitlines():
            at = line.find("step ")
            print("log", line[at:] if at >= 0 else line, flush=True)
        if chunk.end_of_stream:
            verdict = chunk.run.state
    assert ended.wait(DEADLINE), "the watch never told of the end"
    waited = stub.WaitRun(
        run_service_pb2.WaitRunRequest(name=created.run.uid), timeout=DEADLINE
    )
    assert waited.reached and waited.run.state == verdict
    listed = stub.ListRuns(
        run_service_pb2.ListRunsRequest(filter='label.language = "python"'), timeout=DEADLINE
    )
    assert [one.uid for one in listed.runs] == [created.run.uid]
    return 0 if verdict == run_pb2.Run.SUCCEEDED else 1


def wrong(stub):
    for call, request in (
        (
            stub.CreateRun,
            run_service_pb2.CreateRunRequest(
                run=run_pb2.Run(config_yaml="modle: {}\n"),
                request_id=str(uuid.uuid4()),
                config_source="bad.yaml",
            ),
        ),
        (stub.GetRun, run_service_pb2.GetRunRequest(name="runs/nosuchrun")),
    ):
        try:
            call(request, timeout=DEADLINE)
            print("accepted")
            return 1
        except grpc.RpcError as error:
            print(error.code().name, error.details())
            for key, value in error.trailing_metadata():
                if key == "grpc-status-details-bin":
                    print(value.decode("latin-1").replace("\n", " "))
    return 0


def main():
    address, verb, *rest = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        stub = run_service_pb2_grpc.RunServiceStub(channel)
        return submit(stub, *rest) if verb == "submit" else wrong(stub)


if __name__ == "__main__":
    sys.exit(main())
