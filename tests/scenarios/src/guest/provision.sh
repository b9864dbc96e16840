#!/bin/bash
# Turns a fresh Debian into a server on which Connect is installed and serves content through nginx: PostgreSQL, data on NFS,
# images in a registry on loopback. Run once per image; scenarios start from the snapshot that follows.
#
# In /root/lab: rstudio-connect.deb, standin (the program), package/ (how images are built).
set -euo pipefail
lab=/root/lab
version=2026.03.1
address=10.0.2.15          # the machine's own address; PostgreSQL is reached over it from containers, too
say() { printf '== %s\n' "$*"; }

say "names"
grep -q connect.example.com /etc/hosts || echo "127.0.0.1 connect.example.com" >>/etc/hosts

say "PostgreSQL"
conf=$(runuser -u postgres -- psql -Atc 'show config_file')
hba=$(runuser -u postgres -- psql -Atc 'show hba_file')
grep -q '^listen_addresses' "$conf" || echo "listen_addresses = '*'" >>"$conf"
grep -q '^host connect' "$hba" || printf 'host connect connect 10.0.2.0/24 scram-sha-256\nhost connect connect 172.16.0.0/12 scram-sha-256\nhost connect connect 127.0.0.1/32 scram-sha-256\n' >>"$hba"
systemctl restart postgresql
runuser -u postgres -- psql -qc "create user connect password 'lab-database-password'" -c 'create database connect owner connect'

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

[Mount]
What=127.0.0.1:/srv/nfs/connect
Where=/mnt/connect
Type=nfs4
Options=vers=4.2,hard,lookupcache=pos

[Install]
WantedBy=multi-user.target
EOF
systemctl daemon-reload
systemctl enable --now mnt-connect.mount

say "Connect"
install -d /etc/rstudio-connect
cat >/etc/default/rstudio-connect <<EOF
CONNECT_SERVER_SENDEREMAIL=connect@example.com
EOF
# The package starts the service at once, as the product's does; without a configuration of ours it only gets in the way.
dpkg -i $lab/rstudio-connect.deb >/dev/null
systemctl stop rstudio-connect
rm -rf /var/lib/rstudio-connect/*
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
	install -m 600 /dev/stdin $lab/keys/$who <<<"$who-$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')"
done
cat >/opt/rstudio-connect/standin.toml <<EOF
build-ms = 100
EOF
systemctl start rstudio-connect
for _ in $(seq 300); do curl -fs http://127.0.0.1:3939/__ping__ >/dev/null && break; sleep 0.2; done
curl -fsS http://127.0.0.1:3939/__ping__ >/dev/null
systemctl stop rstudio-connect
$tool seed --items 12 --admin-key-file $lab/keys/admin --publisher-key-file $lab/keys/publisher \
	--expired-key-file $lab/keys/expired >$lab/content.json
systemctl start rstudio-connect

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
for _ in $(seq 100); do curl -fs http://127.0.0.1:5000/v2/ >/dev/null && break; sleep 0.2; done
build="$lab/package/build-image.sh --binary $lab/standin --version $version"
repository=127.0.0.1:5000/posit/connect
$build --set 'build-ms = 100' $repository:$version-ubuntu-24.04-std $repository:$version
$build --set 'build-ms = 100' --set 'ping = "unavailable"' $repository:never-healthy
$build --set 'build-ms = 100' --reports 2026.02.1 $repository:reports-other
$build --set 'build-ms = 100' --set 'startup-ms = 20000' $repository:slow
$lab/package/build-image.sh --binary $lab/standin --version 2026.02.1 $repository:2026.02.1-ubuntu-24.04-std
docker image ls -q | sort -u | xargs -r docker image rm -f >/dev/null

say "what was"
for _ in $(seq 300); do curl -fs http://connect.example.com/__ping__ >/dev/null && break; sleep 0.2; done
curl -fsS -H "Authorization: Key $(cat $lab/keys/admin)" http://connect.example.com/__api__/server_settings
echo
say ready
