#!/bin/bash
# Installs connect-migrator as an administrator does, and stores the credentials.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get install -qy /root/lab/connect-migrator.deb 2>&1
credentials=/etc/connect-migrator/credentials
install -m 600 /root/lab/keys/admin $credentials/connect-api-key
install -m 600 /root/lab/keys/publisher $credentials/publisher-key
install -m 600 /root/lab/keys/expired $credentials/expired-key
