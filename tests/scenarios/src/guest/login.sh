#!/bin/bash
# Puts a registry that asks for a login beside the lab's, with the same images and one that has another Python.
set -euo pipefail
own=127.0.0.1:5000/posit/connect
printf 'FROM %s:2026.03.1\nLABEL co.posit.image.tools.python=3.11.9\n' $own | DOCKER_BUILDKIT=0 docker build -q -t $own:other-python - 2>/dev/null
docker push -q $own:other-python
docker image prune -af >/dev/null

password=lab-registry-password
printf '%s\n' "$password" | install -m 600 /dev/stdin /root/lab/keys/registry
# The password, as the registry keeps it.
printf 'lab:%s\n' '$2b$05$NTGTrJXPiaXMGWDLV7UObe7s2gKJuyDMSqx2hgdF2fb7sUPwEuz2i' >/root/lab/htpasswd
cat >/root/lab/login.yml <<'X'
version: 0.1
log: { level: warn }
storage:
  filesystem: { rootdirectory: /var/lib/docker-registry }
http:
  addr: 127.0.0.1:5402
auth:
  htpasswd: { realm: lab, path: /root/lab/htpasswd }
X
cat >/etc/containers/registries.conf.d/login.conf <<'X'
[[registry]]
location = "127.0.0.1:5402"
insecure = true
X
systemd-run -q --unit=lab-registry-login docker-registry serve /root/lab/login.yml
for _ in $(seq 300); do
	[ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:5402/v2/)" = 401 ] && exit 0
	sleep 0.2
done
echo 'the registry does not ask for a login' >&2
exit 1
