#!/bin/sh
# Plants one bug of each kind in a copy of the contracts and wants forge to find it.
set -eu
cd "$(dirname "$0")/.."
modules=${SHOAL_NODE_MODULES:-$PWD}
if [ ! -x "$modules/node_modules/@foundry-rs/forge-linux-amd64/bin/forge" ]; then
	echo "SKIPPED: no bug was planted: no forge under $modules (npm install)" >&2
	exit 0
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
plant() { # name, file, sed script
	rm -rf "$dir/src"
	cp -r src test foundry.toml "$dir"
	sed -i "$3" "$dir/src/$2"
	if cmp -s "src/$2" "$dir/src/$2"; then
		echo "$1: nothing was planted in $2" >&2
		exit 1
	fi
	if SHOAL_NODE_MODULES=$modules FOUNDRY_INVARIANT_RUNS=128 sh "$dir/test/forge.sh" > "$dir/log" 2>&1; then
		echo "$1: NOT found" >&2
		exit 1
	fi
	grep -q 'FAIL' "$dir/log" || { cat "$dir/log" >&2; exit 1; }
	echo "$1: found: $(grep -m1 'FAIL' "$dir/log" | cut -c1-100)"
}
case ${1:-all} in all | rounding)
	plant rounding Shares.sol 's|perShare += x / supply;|perShare += x / supply + (1 << 90);|' ;;
esac
case ${1:-all} in all | check)
	plant "missing check" Runs.sol 's|if (w.amount <= had) revert NothingToClaim();|had = 0;|' ;;
esac
case ${1:-all} in all | books) # a record that is forgotten in a dispute
	plant "forgotten record" Disputes.sol '/function _forfeit/,/^    }/s|held -= amount;||' ;;
esac
case ${1:-all} in all | re-entrancy) # no guard, and the record after the payment
	plant re-entrancy Runs.sol '/function claim(/s| nonReentrant||
		/claimed\[id\]\[w.account\] = w.amount;/d
		s|token.safeTransfer(w.account, due);|token.safeTransfer(w.account, due); claimed[id][w.account] = w.amount;|' ;;
esac
