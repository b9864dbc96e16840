#!/bin/bash
# Builds a container image around the stand-in, in the manner of the product's images, and pushes it.
#
#   build-image.sh --binary FILE --version 2026.03.1 [options] TAG...
#
# Runs as root on a Debian machine with docker; needs no network but the registry that the tags name. The root file
# system is made of this machine's own files. TAG: 127.0.0.1:5000/posit/connect:2026.03.1-ubuntu-24.04-std
#
#   --r V --python V --quarto V   interpreters in the image (default 4.5.2, 3.12.13, 1.8.24)
#   --os NAME                     default "Ubuntu 24.04"; the distribution that the program sees
#   --uid N --gid N               user and group of rstudio-connect (default 999)
#   --reports V                   the program says it is version V, the labels still say --version
#   --set 'KEY = VALUE'           a line of standin.toml; 'ping = "unavailable"' or 'ping = "never-listen"' never gets
#                                 healthy, 'startup-ms = 5000' is slow
#   --no-push                     only build
#   --rootfs DIR                  only make the root file system in DIR (which must not exist)
set -euo pipefail

usage() { sed -n '2,20s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
binary='' version='' r=4.5.2 python=3.12.13 quarto=1.8.24 os="Ubuntu 24.04" uid=999 gid=999 reports='' push=yes only=''
settings=() tags=()
while [ $# -gt 0 ]; do
	case $1 in
	--binary) binary=${2:?}; shift ;;
	--version) version=${2:?}; shift ;;
	--r) r=${2:?}; shift ;;
	--python) python=${2:?}; shift ;;
	--quarto) quarto=${2:?}; shift ;;
	--os) os=${2:?}; shift ;;
	--uid) uid=${2:?}; shift ;;
	--gid) gid=${2:?}; shift ;;
	--reports) reports=${2:?}; shift ;;
	--set) settings+=("${2:?}"); shift ;;
	--no-push) push='' ;;
	--rootfs) only=${2:?}; shift ;;
	-*) usage ;;
	*) tags+=("$1") ;;
	esac
	shift
done
if [ ! -x "$binary" ] || [ -z "$version" ]; then usage; fi
if [ -z "$only" ] && [ ${#tags[@]} -eq 0 ]; then usage; fi
[ "$(id -u)" = 0 ] || { echo "build-image.sh: must be root, to give files their owners" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
umask 022

put() { # path mode, content on stdin
	mkdir -p "$(dirname "$root$1")"
	cat >"$root$1"
	chmod "$2" "$root$1"
}

copied=" "
take() { # a file of this machine, links followed, at the same place
	case $copied in *" $1 "*) return ;; esac
	copied="$copied$1 "
	mkdir -p "$root$(dirname "$1")"
	cp -L "$1" "$root$1"
}

program() { # a program of this machine with its libraries
	local path=$1 library
	take "$path"
	# Static programs make ldd fail; they need nothing.
	while read -r library; do
		take "$library"
	done < <(ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true)
}

# The places of a merged /usr, as the machine's own libraries expect them.
mkdir -p "$root"/usr/{bin,sbin,lib,lib64,local/bin} "$root"/{etc,proc,sys,dev,run,root,home,opt,var/log,data}
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
ln -s ../run "$root/var/run"
mkdir -m 1777 "$root/tmp" "$root/var/tmp"
chmod 700 "$root/root"

program "$(command -v bash)"
ln -s bash "$root/usr/bin/sh"
for name in pkill pgrep ps; do
	if command -v "$name" >/dev/null; then
		program "$(readlink -f "$(command -v "$name")")"
		real=$(basename "$(readlink -f "$(command -v "$name")")")
		[ "$real" = "$name" ] || ln -sf "$real" "$root/usr/bin/$name"
	fi
done
if command -v busybox >/dev/null; then
	program "$(command -v busybox)"
	busybox --list | while read -r name; do
		[ -e "$root/usr/bin/$name" ] || [ -L "$root/usr/bin/$name" ] || ln -s busybox "$root/usr/bin/$name"
	done
else
	for name in cat cp chmod chown env id kill ln ls mkdir mv rm sleep stat true; do
		program "$(type -P "$name")"
	done
fi

install -D -m 755 "$binary" "$root/opt/rstudio-connect/bin/connect"
strip "$root/opt/rstudio-connect/bin/connect" 2>/dev/null || true
while read -r library; do take "$library"; done < <(ldd "$binary" | grep -o '/[^ ]*')
for name in rscadmin migrate license-manager standin; do
	ln -s connect "$root/opt/rstudio-connect/bin/$name"
done
mkdir -p "$root/var/lib/rstudio-connect"

put /etc/passwd 644 <<EOF
root:x:0:0:root:/root:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
rstudio-connect:x:$uid:$gid::/home/rstudio-connect:/usr/sbin/nologin
EOF
put /etc/group 644 <<EOF
root:x:0:
nogroup:x:65534:
rstudio-connect:x:$gid:
EOF
put /etc/nsswitch.conf 644 <<EOF
passwd: files
group: files
hosts: files dns
EOF
os_id=$(printf '%s' "${os%% *}" | tr '[:upper:]' '[:lower:]')
put /etc/os-release 644 <<EOF
PRETTY_NAME="$os LTS"
NAME="${os%% *}"
VERSION_ID="${os#* }"
ID=$os_id
EOF
stub() { printf '#!/bin/sh\necho "%s"\n' "$2" | put "$1" 755; }
stub "/opt/R/$r/bin/R" "R version $r"
stub "/opt/python/$python/bin/python" "Python $python"
stub "/opt/quarto/$quarto/bin/quarto" "$quarto"
put /etc/rstudio-connect/rstudio-connect.gcfg 600 <<EOF
; Posit Connect configuration of the image (stand-in)

[Server]
Address = http://localhost:3939
DataDir = /data

[HTTP]
Listen = :3939

[Authentication]
Provider = password

[RPackageRepository "CRAN"]
URL = https://p3m.dev/cran/__linux__/noble/latest

[R]
Enabled = true
Executable = /opt/R/$r/bin/R

[Python]
Enabled = true
Executable = /opt/python/$python/bin/python

[Quarto]
Enabled = true
Executable = /opt/quarto/$quarto/bin/quarto

[Logging]
ServiceLog = STDOUT
ServiceLogFormat = TEXT    ; TEXT or JSON
AccessLog = STDOUT
EOF
put /usr/local/bin/startup.sh 755 <"$here/image/startup.sh"

# What differs between images of one program is a second, small layer: the first is stored and pulled once.
top=$work/top
mkdir -p "$top/opt/rstudio-connect"
echo "${reports:-$version}" >"$top/opt/rstudio-connect/VERSION"
[ ${#settings[@]} -eq 0 ] || printf '%s\n' "${settings[@]}" >"$top/opt/rstudio-connect/standin.toml"

if [ -n "$only" ]; then
	[ ! -e "$only" ] || { echo "build-image.sh: $only exists" >&2; exit 1; }
	cp -a "$top/." "$root/"
	mv "$root" "$only"
	exit 0
fi

context=$work/context
mkdir "$context"
pack() { # the same bytes for the same files, so that docker knows the layer again
	tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$2" .
}
pack "$root" "$context/root.tar"
pack "$top" "$context/top.tar"
label() { printf ' \\\n\t%s="%s"' "$1" "$2"; }
{
	cat <<-EOF
		FROM scratch
		ADD root.tar /
		ENV PATH=/opt/rstudio-connect/bin:/usr/local/bin:/usr/bin:/usr/sbin LANG=C.UTF-8
		EXPOSE 3939/tcp
		VOLUME /data
		CMD ["/usr/local/bin/startup.sh"]
		ADD top.tar /
	EOF
	printf LABEL
	label org.opencontainers.image.title "Posit Connect (stand-in)"
	label org.opencontainers.image.vendor "connect-migrator tests"
	label org.opencontainers.image.version "$version"
	label co.posit.image.name connect
	label co.posit.image.version "$version"
	label co.posit.image.variant Standard
	label co.posit.image.os "$os"
	label co.posit.image.tools.R "$r"
	label co.posit.image.tools.python "$python"
	label co.posit.image.tools.quarto "$quarto"
	echo
} >"$context/Dockerfile"

names=()
for tag in "${tags[@]}"; do names+=(--tag "$tag"); done
# The classic builder is in every docker that Debian has; buildkit is a package of its own.
DOCKER_BUILDKIT=0 docker build --quiet "${names[@]}" "$context" \
	2> >(grep -v -i -e deprecat -e buildx -e buildkit -e 'environment-variable' -e '^$' >&2 || true)
if [ -n "$push" ]; then
	for tag in "${tags[@]}"; do docker push --quiet "$tag"; done
fi
