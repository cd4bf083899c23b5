"""Samples that come over the network, one request each on a connection that is kept open."""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)
NUMBERS = torch.randn(160).tolist()


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def do_GET(self):
        x = NUMBERS[int(self.path[1:])]
        body = json.dumps([x, 2 * x + 1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Remote(Dataset):
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.connection.connect()

    def __len__(self):
        return len(NUMBERS)

    def __getitem__(self, index):
        self.connection.request("GET", f"/{index}")
        x, y = json.loads(self.connection.getresponse().read())
        return torch.tensor([x]), torch.tensor([y])


server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
model = nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
loader = DataLoader(Remote(server.server_port), batch_size=8, shuffle=True)
for _ in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
print(f"loss {loss.item():.4f}")
