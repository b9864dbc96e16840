# What a person wants to see when a scenario has failed.
echo "--- connect-migrator status prod"
connect-migrator status prod
echo "--- journal of connect-migrator@prod"
journalctl -u connect-migrator@prod -o short-precise --no-pager | tail -n 80
echo "--- rstudio-connect: $(systemctl is-active rstudio-connect) $(systemctl is-enabled rstudio-connect)"
journalctl -u rstudio-connect -o short-precise --no-pager | tail -n 6
echo "--- docker"
docker ps -a
docker inspect -f '{{.Name}} {{.State.Status}} exit {{.State.ExitCode}} {{.State.Error}}' $(docker ps -aq) 2>/dev/null
docker logs connect-prod 2>&1 | tail -n 8
journalctl -u docker -o short-precise --no-pager -p warning | tail -n 6
echo "--- podman"
podman ps -a
systemctl status connect-prod --no-pager 2>/dev/null | head -n 12
journalctl -u connect-prod -o short-precise --no-pager | tail -n 12
echo "--- nginx: $(systemctl is-active nginx)"
nginx -t 2>&1 | tail -n 3
