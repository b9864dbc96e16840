#!/bin/bash
# Turns the lab into one whose Connect uses SQLite and local disk, with what it is to be moved to beside it: an empty PostgreSQL
# database that speaks TLS under a certificate of the lab's own authority, and an empty NFS export on a file system of its own.
set -euo pipefail
lab=/root/lab
address=10.0.2.15
data=/var/lib/connect-data
say() { printf '== %4d s: %s\n' "$SECONDS" "$*"; }
sql() { (cd / && runuser -u postgres -- psql -qAtc "$1"); }

say "the old data are gone"
systemctl stop rstudio-connect
systemctl disable --now mnt-connect.mount 2>/dev/null
rm /etc/systemd/system/mnt-connect.mount
systemctl daemon-reload
exportfs -ua
rm -rf /srv/nfs/connect /mnt/connect
sql 'drop database connect'

say "an export on a small disk"
mkdir -p /srv/nfs/connect
truncate -s 256M /srv/export.img
mke2fs -q -F -t ext4 -N 16384 /srv/export.img
echo '/srv/export.img /srv/nfs/connect ext4 loop 0 0' >/etc/fstab
systemctl daemon-reload
mount /srv/nfs/connect
exportfs -ra

say "PostgreSQL speaks TLS"
grep -q db.example.com /etc/hosts || echo "$address db.example.com" >>/etc/hosts
tls=/etc/ssl/lab
install -d -m 755 $tls
cd $tls
key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
authority() {
	openssl req -x509 "${key[@]}" -keyout "$1.key" -out "$1.pem" -days 3650 -subj "/CN=$1 of the lab" \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null
}
authority authority
authority stranger
openssl req "${key[@]}" -keyout server.key -out server.csr -subj /CN=db.example.com 2>/dev/null
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 3650 -out server.pem \
	-extfile <(printf 'subjectAltName=DNS:db.example.com\nbasicConstraints=critical,CA:FALSE\n') 2>/dev/null
chown postgres server.key
chmod 600 ./*.key
cd /
conf=$(sql 'show config_file')
hba=$(sql 'show hba_file')
sed -i '/^ssl/d' "$conf"
printf "ssl = on\nssl_cert_file = '%s/server.pem'\nssl_key_file = '%s/server.key'\n" $tls $tls >>"$conf"
sed -i 's/^host connect/hostssl connect/' "$hba"
systemctl restart postgresql
sql 'create database connect owner connect'

say "Connect on SQLite and local disk"
cat >/root/lab/gcfg.awk <<'EOF'
/^\[/ { section = $0 }
section == "[Postgres]" { next }
/^DataDir/ { $0 = "DataDir = " data }
/^Provider = Postgres/ { $0 = "Provider = sqlite   ; one host" }
{ print }
EOF
awk -v data=$data -f /root/lab/gcfg.awk /etc/rstudio-connect/rstudio-connect.gcfg >/root/lab/new.gcfg
cat /root/lab/new.gcfg >/etc/rstudio-connect/rstudio-connect.gcfg
rm /root/lab/gcfg.awk /root/lab/new.gcfg
mkdir -p $data
serves() {
	for _ in $(seq 300); do
		curl -fs -o /dev/null "$1/__ping__" && return
		sleep 0.2
	done
	echo "$1 does not answer" >&2
	systemctl status --no-pager --lines 20 rstudio-connect >&2
	return 1
}
systemctl start rstudio-connect
serves http://127.0.0.1:3939
systemctl stop rstudio-connect
/opt/rstudio-connect/bin/standin seed --items 12 --admin-key-file $lab/keys/admin \
	--publisher-key-file $lab/keys/publisher --expired-key-file $lab/keys/expired >$lab/content.json
# What users keep: large enough that a copy can be met in its midst.
for n in $(seq 24); do
	dir=$data/apps/archive/$n
	mkdir -p "$dir"
	head -c 1000000 /dev/urandom >"$dir/data"
	for m in $(seq 12); do echo "note $n $m" >"$dir/note-$m"; done
	ln -s data "$dir/latest"
	ln "$dir/data" "$dir/data-again"
done
chown -R rstudio-connect: $data/apps/archive
chmod 2770 $data/apps/archive
truncate -s 8M $data/apps/archive/sparse
setfattr -n user.lab -v kept $data/apps/archive/1/data 2>/dev/null || true
systemctl start rstudio-connect
serves http://connect.example.com

say "the credential"
install -m 600 /dev/stdin /etc/connect-migrator/credentials/postgres-password <<<lab-database-password
install -m 600 /dev/stdin /etc/connect-migrator/credentials/wrong-password <<<not-the-password

say "what is"
for what in all kept; do bash $lab/before.sh $what >$lab/before.$what; done
bash $lab/content.sh >$lab/before.content
say ready
