"""Started in the environment of LiberTEM-live: serve a recording as a DECTRIS detector would.

``python serve_recording.py RECORDING API_PORT`` prints the port of the stream and stays.  A fixed
port for the stream races in that simulator, so it chooses one.
"""

import sys
import time

if __name__ == "__main__":
    from libertem_live.detectors.dectris.sim import DectrisSim

    simulator = DectrisSim(port=int(sys.argv[2]), zmqport=0, path=sys.argv[1], verbose=False)
    simulator.start()
    simulator.wait_for_listen()
    sys.stdout.write(f"{simulator.zmqport}\n")
    sys.stdout.flush()
    while simulator.api_server.is_alive():
        time.sleep(0.2)
