"""Print the newest optimize run and the ONNX files of its baseline and its result, a line each."""

from pathlib import Path

from rig.errors import StoreError
from rig.store.store import Store

run = Store().latest("optimize")
if run is None:
    raise StoreError("no optimize run in this store", "run rig optimize first")
result = run.read_json("result.json")
print(run.id)
for name in ("baseline", "result"):
    print(Path(run.path, result[name]["onnx"]))
