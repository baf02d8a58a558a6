import asyncio, time
from tests.properties.program import *
async def test_dev(make_site):
    for n in range(300):
        site = make_site()
        try:
            await site.connection.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            for k in range(3):
                r = await site.gateway.client.post("/api/v1/notifications", json=[event("north", 1)], headers={"X-Tenant-ID": site.stream.tenant})
                if r.status_code not in (200, 503): print(n, k, r.text); return
                if r.status_code == 503: print(n, k, r.json()["message"])
        finally: pass
