#!/bin/bash
# The vendor's manual steps, as a careful person would script them: the image pulled, the container's configuration and the
# proxy's line prepared beforehand; no waiting longer than needed. `vendor.sh prepare`, `vendor.sh move`, `vendor.sh undo`.
set -euo pipefail
image=127.0.0.1:5000/posit/connect:2026.03.1-ubuntu-24.04-std
lab=/root/lab/vendor
site=/etc/nginx/sites-available/connect
case $1 in
prepare)
	mkdir -p $lab
	docker pull -q $image >/dev/null
	sed -e 's|^Listen = .*|Listen = :3939|' -e 's|^ServiceLog = .*|ServiceLog = STDOUT|' \
		/etc/rstudio-connect/rstudio-connect.gcfg >$lab/rstudio-connect.gcfg
	chmod 600 $lab/rstudio-connect.gcfg
	cp -p $site $lab/site
	;;
move)
	systemctl stop rstudio-connect
	docker run -d --privileged=true --name vendor -p 127.0.0.1:3940:3939 -v /mnt/connect/data:/mnt/connect/data \
		-v $lab/rstudio-connect.gcfg:/etc/rstudio-connect/rstudio-connect.gcfg:ro \
		-v /var/lib/rstudio-connect/lab.lic:/var/lib/rstudio-connect/lab.lic:ro $image >/dev/null
	until curl -fs -o /dev/null http://127.0.0.1:3940/__ping__; do sleep 0.1; done
	sed -i 's|proxy_pass http://127.0.0.1:3939;|proxy_pass http://127.0.0.1:3940;|' $site
	nginx -s reload
	;;
undo)
	docker exec vendor pkill -TERM -x connect || true
	docker rm -f vendor >/dev/null
	cp -p $lab/site $site
	systemctl start rstudio-connect
	until curl -fs -o /dev/null http://127.0.0.1:3939/__ping__; do sleep 0.1; done
	nginx -s reload
	;;
esac
