#!/bin/bash
# Turns a fresh Debian into a server on which Connect is installed and serves content through nginx: PostgreSQL, data on NFS,
# images in a registry on loopback. Run once per image; scenarios start from the snapshot that follows.
#
# In /root/lab: rstudio-connect.deb, standin (the program), package/ (how images are built), before.sh, content.sh.
set -euo pipefail
lab=/root/lab
version=2026.03.1
address=10.0.2.15          # the machine's own address; PostgreSQL is reached over it from containers, too
say() { printf '== %4d s: %s\n' "$SECONDS" "$*"; }

say "names"
# Not the loopback address: a container must reach the same name, too.
grep -q connect.example.com /etc/hosts || echo "$address connect.example.com" >>/etc/hosts

say "PostgreSQL"
sql() { (cd / && runuser -u postgres -- psql -qAtc "$1"); }
conf=$(sql 'show config_file')
hba=$(sql 'show hba_file')
grep -q '^listen_addresses' "$conf" || echo "listen_addresses = '*'" >>"$conf"
grep -q '^host connect' "$hba" || for from in 10.0.2.0/24 172.16.0.0/12 127.0.0.1/32; do
	echo "host connect connect $from scram-sha-256"
done >>"$hba"
systemctl restart postgresql
sql "create user connect password 'lab-database-password'"
sql 'create database connect owner connect'

say "NFS"
mkdir -p /srv/nfs/connect /mnt/connect
echo "/srv/nfs/connect *(rw,sync,no_subtree_check,no_root_squash,fsid=1)" >/etc/exports
systemctl enable --now nfs-server >/dev/null 2>&1
exportfs -ra
cat >/etc/systemd/system/mnt-connect.mount <<EOF
[Unit]
Description=Data of Connect
After=nfs-server.service network-online.target
Requires=nfs-server.service
Before=remote-fs.target

[Mount]
What=127.0.0.1:/srv/nfs/connect
Where=/mnt/connect
Type=nfs4
Options=vers=4.2,hard,lookupcache=pos

[Install]
WantedBy=remote-fs.target
EOF
systemctl daemon-reload
systemctl enable --now mnt-connect.mount 2>/dev/null
systemctl enable remote-fs.target 2>/dev/null

say "Connect"
install -d /etc/rstudio-connect
# The package starts the service at once, as the product's does; without a licence it only gets in the way.
dpkg -i $lab/rstudio-connect.deb >/dev/null
systemctl stop rstudio-connect
systemctl reset-failed rstudio-connect 2>/dev/null || true
rm -rf /var/lib/rstudio-connect/*
echo 'CONNECT_SERVER_SENDEREMAIL=connect@example.com' >/etc/default/rstudio-connect
tool=/opt/rstudio-connect/bin/standin
$tool interpreters --r 4.5.2 --python 3.12.13 --quarto 1.8.24 >/dev/null
cat >/etc/rstudio-connect/rstudio-connect.gcfg <<EOF
; Posit Connect configuration of the lab
[Server]
; The URL that visitors use.
Address = http://connect.example.com
DataDir = /mnt/connect/data

[HTTP]
Listen = 127.0.0.1:3939    ; behind nginx

[Database]
Provider = Postgres

[Postgres]
URL = postgres://connect@$address/connect?sslmode=disable
Password = lab-database-password

[Authentication]
Provider = password

[R]
Enabled = true
Executable = /opt/R/4.5.2/bin/R

[Python]
Enabled = true
Executable = /opt/python/3.12.13/bin/python

[Quarto]
Enabled = true
Executable = /opt/quarto/1.8.24/bin/quarto

[RPackageRepository "CRAN"]
URL = https://packagemanager.posit.co/cran/latest

[Logging]
ServiceLog = /var/log/rstudio/rstudio-connect/rstudio-connect.log
EOF
chmod 600 /etc/rstudio-connect/rstudio-connect.gcfg
install -m 600 /dev/stdin /var/lib/rstudio-connect/lab.lic <<<"lab licence"
mkdir -p /mnt/connect/data
install -d -m 700 $lab/keys
for who in admin publisher expired; do
	key=$who-$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')
	install -m 600 /dev/stdin $lab/keys/$who <<<"$key"
	# For curl: on its command line everybody could read the key.
	install -m 600 /dev/stdin $lab/keys/$who.header <<<"Authorization: Key $key"
done
echo 'build-ms = 100' >/opt/rstudio-connect/standin.toml
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
$tool seed --items 12 --admin-key-file $lab/keys/admin --publisher-key-file $lab/keys/publisher \
	--expired-key-file $lab/keys/expired >$lab/content.json
systemctl start rstudio-connect
serves http://127.0.0.1:3939

say "nginx"
rm -f /etc/nginx/sites-enabled/default
cat >/etc/nginx/sites-available/connect <<'EOF'
# The site of the lab: Connect behind nginx.
map $http_upgrade $connection_upgrade {
    default upgrade;
    ''      close;
}

server {
    listen 80;
    server_name connect.example.com;
    client_max_body_size 0;

    location / {
        proxy_pass http://127.0.0.1:3939;   # Connect
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_set_header Host $host;
        proxy_set_header X-RSC-Request $scheme://$host:$server_port$request_uri;
        proxy_buffering off;
        proxy_read_timeout 1h;
    }
}
EOF
ln -sf ../sites-available/connect /etc/nginx/sites-enabled/connect
nginx -tq
systemctl restart nginx

say "images"
for _ in $(seq 100); do curl -fs -o /dev/null http://127.0.0.1:5000/v2/ && break; sleep 0.2; done
repository=127.0.0.1:5000/posit/connect
$lab/package/build-image.sh --binary $lab/standin --set 'build-ms = 100' --version $version \
	$repository:$version-ubuntu-24.04-std $repository:$version
variant() { # tag, file below /opt/rstudio-connect, its content, more lines of a Dockerfile
	local context
	context=$(mktemp -d)
	printf '%s\n' "$3" >"$context/file"
	printf 'FROM %s\nCOPY file /opt/rstudio-connect/%s\n%s\n' "$repository:$version" "$2" "${4:-}" >"$context/Dockerfile"
	DOCKER_BUILDKIT=0 docker build -q -t "$repository:$1" "$context" >/dev/null 2>&1
	docker push -q "$repository:$1"
	rm -rf "$context"
}
variant never-healthy standin.toml 'ping = "unavailable"'
variant reports-other VERSION 2026.02.1
variant slow standin.toml $'build-ms = 100\nstartup-ms = 20000'
variant broken-layer broken-layer 'this layer will be gone'
variant 2026.02.1-ubuntu-24.04-std VERSION 2026.02.1 \
	'LABEL org.opencontainers.image.version=2026.02.1 co.posit.image.version=2026.02.1'
docker image prune -af >/dev/null

say "what is"
serves http://connect.example.com
for what in all kept; do bash $lab/before.sh $what >$lab/before.$what; done
bash $lab/content.sh >$lab/before.content
say ready
