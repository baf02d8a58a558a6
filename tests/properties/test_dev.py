import asyncio, time, fcntl, termios, struct
from tests.properties.program import *
from tests import event_stream
streams = []
orig_init = event_stream.OpenStream.__init__
def init(self, c):
    orig_init(self, c); streams.append(self)
async def test_dev(make_site, monkeypatch):
    monkeypatch.setattr(event_stream.OpenStream, "__init__", init)
    fails = 0
    for n in range(60):
        t = time.monotonic()
        streams.clear()
        site = make_site()
        try:
            await run(site, [Flood(), Open(slot=2, form='GET', watch=True, wanted=Wanted(station=None, least=None), start='now', place=1, length=None), Flood(), Wipe(), Settle(), Trim(keep=1)])
        except AssertionError as e:
            if "not within" not in str(e): continue
            fails += 1
            if fails > 3: break
            print("FAIL", n, e)
            for s in streams: print(len(s._rest), s._rest[:100], s.frames, s._taken)
