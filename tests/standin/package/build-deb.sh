#!/bin/sh
# Packs the stand-in as rstudio-connect_<version>_amd64.deb, with the product's paths.
#
#   build-deb.sh VERSION OUT_DIR BINARY
#
# VERSION is a calendar version such as 2026.03.1, optionally with what vendors add (2026.03.1-1, 2026.03.1~ubuntu22);
# the program reports its first three numbers. Prints the path of the package. Needs dpkg-deb; no network.
set -eu
[ $# -eq 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
version=$1 out=$2 binary=$3
here=$(cd "$(dirname "$0")" && pwd)
calver=$(printf '%s\n' "$version" | sed -n 's/^\([0-9]\{4\}\.[0-9]\{2\}\.[0-9]\{1,\}\).*$/\1/p')
[ -n "$calver" ] || { echo "build-deb.sh: '$version' does not begin with a version like 2026.03.1" >&2; exit 2; }
[ -x "$binary" ] || { echo "build-deb.sh: $binary is not a program: build connect-standin first" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
umask 022
mkdir -p "$root/DEBIAN" "$root/opt/rstudio-connect/bin" "$root/etc/rstudio-connect" \
	"$root/usr/lib/systemd/system" "$root/var/lib/rstudio-connect"
chmod 755 "$root"
cp "$binary" "$root/opt/rstudio-connect/bin/connect"
strip "$root/opt/rstudio-connect/bin/connect" 2>/dev/null || true
chmod 755 "$root/opt/rstudio-connect/bin/connect"
for name in rscadmin migrate license-manager standin; do
	ln -s connect "$root/opt/rstudio-connect/bin/$name"
done
echo "$calver" >"$root/opt/rstudio-connect/VERSION"
install -m 600 "$here/deb/rstudio-connect.gcfg" "$root/etc/rstudio-connect/rstudio-connect.gcfg"
install -m 644 "$here/deb/rstudio-connect.service" "$root/usr/lib/systemd/system/rstudio-connect.service"
for script in postinst prerm postrm; do
	install -m 755 "$here/deb/$script" "$root/DEBIAN/$script"
done
echo /etc/rstudio-connect/rstudio-connect.gcfg >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<EOF
Package: rstudio-connect
Version: $version
Architecture: amd64
Maintainer: connect-migrator tests <root@localhost>
Depends: libc6 (>= 2.34), libgcc-s1, passwd
Section: science
Priority: optional
Description: stand-in for Posit Connect
 Behaves like the product where a migration touches it. For tests only.
EOF
mkdir -p "$out"
deb=$out/rstudio-connect_${version}_amd64.deb
# Quick to pack and to unpack; nobody downloads it.
dpkg-deb --root-owner-group -Zgzip -z1 --build "$root" "$deb" >/dev/null
echo "$deb"
