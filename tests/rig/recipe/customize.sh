#!/bin/sh
# Turns the packages that mmdebstrap has unpacked into a server that boots quickly and alone.
# Arguments: the root, the folder for the results (disk.raw, vmlinuz and initrd exist there, writable),
# the public ssh key, the disk's size. Run outside of the root, as its root user.
set -eu
root=$1 out=$2 key=$3 size=$4

put() { # path mode, content on stdin
	mkdir -p "$root$(dirname "$1")"
	cat >"$root$1"
	chmod "$2" "$root$1"
}

echo rig | put /etc/hostname 644
put /etc/hosts 644 <<-EOF
	127.0.0.1 localhost rig
	::1 localhost ip6-localhost
EOF
# The root file system comes from the kernel's command line; a line for it here makes the boot wait for udev.
put /etc/fstab 644 </dev/null
# The address that qemu's user network gives its first guest. Nothing answers behind the gateway.
put /etc/systemd/network/10-rig.network 644 <<-EOF
	[Match]
	Driver=virtio_net
	[Network]
	Address=10.0.2.15/24
	Gateway=10.0.2.2
	LinkLocalAddressing=no
	IPv6AcceptRA=no
EOF
echo 'nameserver 127.0.0.1' | put /etc/resolv.conf 644

# The journal must survive a cut of the power, up to the last second or so.
put /etc/systemd/journald.conf.d/rig.conf 644 <<-EOF
	[Journal]
	Storage=persistent
	SyncIntervalSec=1s
	RateLimitIntervalSec=0
EOF
put /etc/ssh/sshd_config.d/rig.conf 644 <<-EOF
	PermitRootLogin prohibit-password
	PasswordAuthentication no
	UsePAM no
	UseDNS no
	PrintMotd no
	MaxSessions 100
	ClientAliveInterval 0
	AcceptEnv none
EOF
put /root/.ssh/authorized_keys 600 <"$key"
chmod 700 "$root/root/.ssh"

put /etc/docker/daemon.json 644 <<-EOF
	{ "storage-driver": "overlay2" }
EOF
put /etc/docker/registry/config.yml 644 <<-EOF
	version: 0.1
	log: { level: warn }
	storage:
	  cache: { blobdescriptor: inmemory }
	  filesystem: { rootdirectory: /var/lib/docker-registry }
	  delete: { enabled: true }
	http:
	  addr: 127.0.0.1:5000
EOF
# docker trusts loopback as it is; podman has to be told.
put /etc/containers/registries.conf.d/rig.conf 644 <<-EOF
	[[registry]]
	location = "127.0.0.1:5000"
	insecure = true
	[[registry]]
	location = "localhost:5000"
	insecure = true
EOF
mkdir -p "$root/srv/nfs"
# AppArmor works and confines containers (docker brings its profile); the hundred profiles of programs that are not
# here would be compiled at the first boot, for half a minute.
find "$root/etc/apparmor.d" -maxdepth 1 -type f ! -name crun ! -name podman ! -name runc -delete

for unit in apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service man-db.timer \
	dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer logrotate.timer phpsessionclean.timer \
	systemd-timesyncd.service getty@tty1.service serial-getty@ttyS0.service nfs-blkmap.service rpc-gssd.service \
	systemd-firstboot.service ldconfig.service sys-kernel-debug.mount sys-kernel-tracing.mount \
	dev-hugepages.mount podman-auto-update.timer podman-auto-update.service podman-restart.service \
	modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service \
	modprobe@fuse.service modprobe@loop.service; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
chroot "$root" journalctl --update-catalog
chroot "$root" systemctl enable -q systemd-networkd.service ssh.service docker.service docker-registry.service \
	nginx.service postgresql.service nfs-server.service apparmor.service
chroot "$root" systemctl disable -q systemd-networkd-wait-online.service podman.socket 2>/dev/null || true

# A first stage of our own: it loads what the root file system needs and goes on. The usual one runs udev for
# that, and is packed; both are slow where the processor is emulated.
put /boot/stage/init 755 <<-EOF
	#!/bin/busybox sh
	busybox mount -t devtmpfs none /dev
	while read -r module; do busybox insmod "/\$module"; done </modules
	until [ -b /dev/vda ]; do busybox sleep 0.02; done
	busybox mount -t ext4 /dev/vda /root
	exec busybox switch_root /root /sbin/init
EOF
chroot "$root" sh -euc '
	kernel=$(ls /lib/modules)
	cd /boot/stage
	mkdir -p bin dev root
	cp /bin/busybox bin/
	ln -s busybox bin/false
	for name in virtio_pci virtio_blk ext4; do
		modprobe --set-version "$kernel" --show-depends "$name"
	done | while read -r kind path _; do
		[ "$kind" = insmod ] || continue
		file=$(basename "$path" .xz)
		[ -e "$file" ] && continue
		case $path in *.xz) xz -dc "$path" ;; *) cat "$path" ;; esac >"$file"
		echo "$file" >>modules
	done
	find . | cpio --quiet --create --format=newc >/boot/initrd
'
cat "$root"/boot/vmlinuz-* >"$out/vmlinuz"
cat "$root"/boot/initrd >"$out/initrd"

# Host keys of its own, made here: the image never leaves this machine.
rm -f "$root"/etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C rig -f "$root/etc/ssh/ssh_host_ed25519_key"
# A fixed machine id, so that the journal stays one journal over every boot.
head -c 16 /dev/urandom | od -An -vtx1 | tr -d ' \n' | put /etc/machine-id 444
# Nothing has to be brought up to date at the first boot.
touch "$root/etc/.updated" "$root/var/.updated"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/tmp/* "$root"/usr/share/doc/* \
	"$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/boot/*

# mmdebstrap still has /proc, /sys and parts of /dev mounted in there; a plain bind mount shows the disk's own files.
unshare --mount sh -euc '
	mount --bind "$1" "$1/mnt"
	mke2fs -q -F -t ext4 -L rig -d "$1/mnt" "$2/disk.raw" "$3"
' sh "$root" "$out" "$size"
