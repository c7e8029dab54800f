"""Examples of every command: its ``--help`` starts with them, and a test parses each."""

from __future__ import annotations

EXAMPLES = {
    "rig": (
        "rig calibrate --device virtual-pi4",
        "rig optimize --device virtual-pi4 --task fashion-mnist --target-power 3.6W --fps 60",
        "rig report",
    ),
    "devices": ("rig devices", "rig devices --probe"),
    "doctor": ("rig doctor --device virtual-pi4", "rig doctor --device pi4 --source ina2xx --out pictures"),
    "calibrate-sensor": (
        "rig calibrate-sensor --device virtual-pi4 --source virtual --against virtual_reference",
        "rig calibrate-sensor --device pi5 --source pmic --against meter",
        "rig calibrate-sensor --device pi4 --source ina2xx --points pairs.csv --reference-uncertainty 0.1%",
    ),
    "calibrate": (
        "rig calibrate --device virtual-pi4",
        "rig calibrate --device pi4 --time 20m",
        "rig calibrate --device local --around model.onnx",
        "rig calibrate --device virtual-pi4 --task fashion-mnist --error 5%",
        "rig calibrate --device my-pi5 --from pi4",
        "rig calibrate --device virtual-pi4 --fusion",
    ),
    "fit": (
        "rig fit rpi4_tflite.jsonl.gz --device my-pi4",
        "rig fit tx2_gpu_conv.csv --device tx2 --boundary rail",
        "rig fit c-0001 more_kernels.csv --device local --replace",
    ),
    "evaluate": (
        "rig evaluate --device my-pi4 other_networks.jsonl",
        "rig evaluate --device tx2 tx2_gpu_conv.csv --folds 5",
        "rig evaluate --device my-pi4 rpi4_tflite.jsonl.gz --folds 5 --group family",
    ),
    "measure": (
        "rig measure model.onnx --device local",
        "rig measure model.onnx --device virtual-pi4 --fps 60 --explain",
    ),
    "predict": (
        "rig predict model.onnx --device virtual-pi4",
        "rig predict model.onnx --device virtual-pi4 --fps 60 --shape 1,3,224,224",
        "rig predict model.onnx --device virtual-pi4 --measure-missing",
    ),
    "optimize": (
        "rig optimize --device virtual-pi4 --task fashion-mnist --target-power 3.6W --fps 60",
        "rig optimize --device local --task fashion-mnist --target-latency 50%",
        "rig optimize --device local --task fashion-mnist --target-latency 30% --method allocate",
        "rig optimize --device virtual-pi4 --task fashion-mnist --target-flops 50% --widths widths.json",
        "rig optimize --device virtual-pi4 --task my_task.py --target-energy 40mJ --target-params 250k",
    ),
    "report": ("rig report", "rig report o-0001 --format pdf"),
    "compare": (
        "rig compare o-0001 o-0002",
        "rig compare o-0001 o-0002 smaller.onnx --cost latency --plot front.svg",
        "rig compare path/to/store --equal-cost 3% --out comparison",
    ),
    "import": ("rig import mlperf results/rpi4/mobilenet-v1", "rig import mlperf RUN-FOLDER --device my-pi4 --json"),
    "replay": ("rig replay c-0001", "rig replay c-0001 --serve"),
}
