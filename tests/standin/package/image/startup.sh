#!/bin/bash
# Starts Connect in the container in the manner of the product's images: the licence first, then Connect as a child of
# this shell, without exec.
set -e

licence_file=${PCT_LICENSE_FILE_PATH:-${RSC_LICENSE_FILE_PATH:-/etc/rstudio-connect/license.lic}}
if [ -n "${PCT_LICENSE:-${RSC_LICENSE:-}}" ]; then
	trap '/opt/rstudio-connect/bin/license-manager deactivate' EXIT
	/opt/rstudio-connect/bin/license-manager activate "${PCT_LICENSE:-$RSC_LICENSE}"
elif [ -f "$licence_file" ]; then
	cp "$licence_file" /var/lib/rstudio-connect/license.lic
	chmod 0600 /var/lib/rstudio-connect/license.lic
fi

/opt/rstudio-connect/bin/connect --config /etc/rstudio-connect/rstudio-connect.gcfg
