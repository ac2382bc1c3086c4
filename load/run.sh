#!/bin/sh
# Builds Marg and its load harness and measures one against an empty Pingora. Arguments go to `marg-load run`:
#   load/run.sh                      everything, about 6 minutes after the build
#   load/run.sh --quick              a first look in under a minute
#   load/run.sh --scenario plain     one scenario (may be given several times)
#   load/run.sh --baseline-only      the yardstick alone; does not need marg
set -eu
cd "$(dirname "$0")/.."

# One call builds both, so that they share every crate that they have in common.
# Both must be as shipped: no debugging features, the profile `release` of the workspace.
case " $* " in
*" --baseline-only "* | *" --url "* | *" --marg "*) cargo build --locked --release -p marg-load ;;
*) cargo build --locked --release -p marg -p marg-load ;;
esac

exec "${CARGO_TARGET_DIR:-target}/release/marg-load" run --marg "${CARGO_TARGET_DIR:-target}/release/marg" "$@"
