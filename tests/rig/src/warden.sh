# Owns one machine on behalf of a test process and outlives it by a moment: whatever ends that process, be it Ctrl-C or
# kill -9, this one's input ends, and it takes the machine and its folder with it.
# $1: the machine's folder. While its file `owned` is locked, the folder is somebody's.
# Input: "start FILE" (a script that becomes qemu), "kill", "keep". Answers one line to each.
trap '' INT TERM HUP
cd "$1" || exit 1
exec 9>owned && flock --nonblock 9 || exit 1
qemu=
end_qemu() {
	[ -z "$qemu" ] || { kill -9 "$qemu" && wait "$qemu"; } 2>/dev/null
	qemu=
}
while read -r word file; do
	case $word in
	start)
		end_qemu
		# Should this shell be killed too, the kernel takes qemu down; unless it was killed before the kernel was asked.
		(trap - INT TERM HUP && exec setpriv --pdeathsig KILL sh -c '[ "$PPID" = "$1" ] && . "./$2"' sh $$ "$file") \
			</dev/null >>qemu.log 2>&1 &
		qemu=$!
		echo "started $qemu"
		;;
	kill)
		end_qemu
		echo killed
		;;
	keep)
		echo kept
		exec </dev/null >/dev/null 2>&1
		wait "$qemu"
		break
		;;
	esac
done
end_qemu
cd / && rm -rf "$1"
