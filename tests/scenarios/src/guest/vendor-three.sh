#!/bin/bash
# The vendor's three procedures for a Connect on SQLite and local disk, as a careful person would script them, one after another:
# `vendor-three.sh prepare` what can be done while Connect serves, then `database`, `storage`, `container`: each a time without service.
set -euo pipefail
image=127.0.0.1:5000/posit/connect:2026.03.1-ubuntu-24.04-std
lab=/root/lab/vendor
gcfg=/etc/rstudio-connect/rstudio-connect.gcfg
site=/etc/nginx/sites-available/connect
old=/var/lib/connect-data new=/mnt/connect
serves() { until curl -fs -o /dev/null "http://127.0.0.1:$1/__ping__"; do sleep 0.1; done; }
case $1 in
prepare)
	mkdir -p $lab $new
	docker pull -q $image >/dev/null
	cat >>$gcfg <<-'EOF'
	[Postgres]
	URL = "postgres://connect@db.example.com/connect?sslmode=verify-full&sslrootcert=/etc/ssl/lab/authority.pem"
	Password = lab-database-password
	EOF
	mount -t nfs4 -o vers=4.2,hard,lookupcache=pos,noatime 127.0.0.1:/srv/nfs/connect $new
	rsync -aHAX --numeric-ids $old/ $new
	;;
database)
	systemctl stop rstudio-connect
	/opt/rstudio-connect/bin/migrate db -yes >/dev/null
	sed -i 's/^Provider = sqlite/Provider = postgres/' $gcfg
	systemctl start rstudio-connect
	serves 3939
	;;
storage)
	systemctl stop rstudio-connect
	rsync -aHAX --numeric-ids --delete --exclude=/lost+found $old/ $new
	sed -i "s|^DataDir = .*|DataDir = $new|" $gcfg
	systemctl start rstudio-connect
	serves 3939
	sed -e 's|^Listen = .*|Listen = :3939|' -e 's|^ServiceLog = .*|ServiceLog = STDOUT|' $gcfg >$lab/rstudio-connect.gcfg
	chmod 600 $lab/rstudio-connect.gcfg
	;;
container)
	systemctl stop rstudio-connect
	docker run -d --privileged=true --name vendor -p 127.0.0.1:3940:3939 -v $new:$new --add-host db.example.com:10.0.2.15 \
		-v /etc/ssl/lab/authority.pem:/etc/ssl/lab/authority.pem:ro \
		-v $lab/rstudio-connect.gcfg:/etc/rstudio-connect/rstudio-connect.gcfg:ro \
		-v /var/lib/rstudio-connect/lab.lic:/var/lib/rstudio-connect/lab.lic:ro $image >/dev/null
	serves 3940
	sed -i 's|proxy_pass http://127.0.0.1:3939;|proxy_pass http://127.0.0.1:3940;|' $site
	nginx -s reload
	;;
esac
