#!/bin/bash
# Copies a generated tree to a real NFS 4.2 mount with the copier and counts the calls by the mount's own statistics. Prints JSON:
# files, and calls, of the first pass, and calls of a second one that finds nothing changed.
set -euo pipefail
export LC_ALL=C
tree=/root/lab/tree mount=/mnt/round-trips
mkdir -p $tree $mount /srv/round-trips
/root/lab/grow-tree $tree 1500 >/dev/null
# The lab's export is small.
exportfs -o rw,no_root_squash,no_subtree_check,fsid=2 127.0.0.1:/srv/round-trips
mount -t nfs4 -o vers=4.2,hard,lookupcache=pos,noatime 127.0.0.1:/srv/round-trips $mount
mkdir $mount/copy
calls() { # of this mount: the first number of each operation
	awk -v at=" mounted on $mount with " '/^device / { ours = index($0, at) } ours && /per-op statistics/ { counts = 1; next }
		/^$/ { counts = 0 } ours && counts && $1 ~ /^[A-Z_0-9]+:$/ { sum += $2 } END { print sum }' /proc/self/mountstats
}
status=0
sync
before=$(calls)
# Ends with 3: the odd entries have what NFS refuses, and that is told.
/root/lab/copier copy --manifest /root/lab/manifest $tree $mount/copy >/root/lab/first.json || status=$?
[ $status = 0 ] || [ $status = 3 ]
# What the client has not sent yet belongs to it.
sync -f $mount
middle=$(calls)
status=0
/root/lab/copier copy --manifest /root/lab/manifest $tree $mount/copy >/root/lab/second.json || status=$?
[ $status = 0 ] || [ $status = 3 ]
sync -f $mount
after=$(calls)
jq -n --argjson first "$(cat /root/lab/first.json)" --argjson second "$(cat /root/lab/second.json)" \
	--argjson calls $((middle - before)) --argjson again $((after - middle)) \
	'{files: $first.files, entries: $first.entries, failed: $first.failed, failures: $first.failures, refused: $first.refused, calls: $calls, again: $again, written_again: $second.written}'
rsync -aHXn --numeric-ids --checksum --delete --itemize-changes $tree/ $mount/copy/ >/root/lab/round-trips.differences 2>&1 || true
