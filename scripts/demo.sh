#!/usr/bin/env bash
# The whole line on this computer: calibrate the simulated board, shrink a network to half of the baseline's power above
# quiet, measure both networks in real time on this CPU, draw the report. Fewer epochs than a real run.
set -euo pipefail

bin=${BIN:-.venv/bin}
device=${DEMO_DEVICE:-virtual-pi4}
task=${DEMO_TASK:-fashion-mnist}
model=${DEMO_MODEL:-resnet20}
target=${DEMO_TARGET:-50%}
fps=${DEMO_FPS:-60}
epochs_baseline=${DEMO_EPOCHS_BASELINE:-2}
epochs_shrink=${DEMO_EPOCHS_SHRINK:-1}
epochs_finetune=${DEMO_EPOCHS_FINETUNE:-1}
calibrate=${DEMO_CALIBRATE:-}
export RIG_HOME=${RIG_HOME:-$PWD/build/demo}
export RIG_DATA=${RIG_DATA:-$RIG_HOME/data} # a download lands here if the Debian package is not there

say() { printf '\n$ %s\n' "$*"; }
rig() { say rig "$@"; "$bin/rig" "$@"; }

packaged=/usr/share/datasets/fashion-mnist
if [ "$task" = fashion-mnist ] && [ ! -d "$packaged" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say apt-get install dataset-fashion-mnist
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends dataset-fashion-mnist; } >/dev/null ||
        echo "not installed; the images are downloaded instead"
fi

rig devices
# shellcheck disable=SC2086  # DEMO_CALIBRATE holds several options
rig calibrate --device "$device" --task "$task" --model "$model" $calibrate
rig optimize --device "$device" --task "$task" --model "$model" --target-power "$target" --fps "$fps" \
    --epochs-baseline "$epochs_baseline" --epochs-shrink "$epochs_shrink" --epochs-finetune "$epochs_finetune"

# The newest optimize run, and the two networks its result names.
found=$("$bin/python" scripts/latest_networks.py)
run=$(sed -n 1p <<<"$found")
before=$(sed -n 2p <<<"$found")
after=$(sed -n 3p <<<"$found")

say "before and after, in real time on this CPU"
rig measure "$before" --device local
rig measure "$after" --device local
rig report "$run"
