"""Spoken digits: a spectrogram of each WAV file, classified by a small convolutional network."""

import argparse
import os
import wave
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

RATE, SECONDS = 8000, 0.6
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "halftime" / "tones"
SIZES = {"small": {"width": 16, "epochs": 12}, "full": {"width": 64, "epochs": 100}}


def recordings(data_dir):
    """WAV files named {digit}_{speaker}_{number}.wav, and where they come from."""
    shared = Path(os.environ.get("HALFTIME_DATA", "/nowhere")) / "fsdd"
    if data_dir is not None:
        folder, source = Path(data_dir), f"recordings from {data_dir}"
    elif shared.is_dir():
        folder, source = shared, "spoken digits from HALFTIME_DATA"
    else:
        folder, source = CACHE, f"made-up tones, one pitch a digit, in {CACHE}"
        make_tones(folder)
    paths = sorted(folder.glob("*_*_*.wav"))
    if not paths:
        raise SystemExit(f"{folder}: no files like 7_name_3.wav in it")
    return paths, source


def make_tones(folder):
    if folder.is_dir() and len(list(folder.glob("*.wav"))) == 500:
        return
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    times = np.arange(int(RATE * SECONDS)) / RATE
    for digit in range(10):
        for number in range(50):
            pitch = 200 * 1.2**digit * numbers.uniform(0.95, 1.05)
            sound = np.sin(2 * np.pi * pitch * times) + numbers.normal(0, 1, len(times))
            with wave.open(str(folder / f"{digit}_tone_{number}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(RATE)
                file.writeframes((sound * 6000).clip(-32768, 32767).astype("<i2").tobytes())


class Spectrograms(Dataset):
    """Reads a file and computes its spectrogram each time it is asked: (1, 65, 75)."""

    def __init__(self, paths):
        self.paths = paths
        self.window = torch.hann_window(128)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        with wave.open(str(path), "rb") as file:
            raw = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        sound = torch.from_numpy(raw.astype(np.float32) / 32768)
        length = int(RATE * SECONDS)
        sound = F.pad(sound[:length], (0, max(length - len(sound), 0)))
        frames = torch.stft(sound, 128, 64, window=self.window, return_complex=True)
        return torch.log(frames.abs() + 1e-4)[None], int(path.name.split("_")[0])


class Listener(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, 2, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x):
        return self.head(self.layers(x).mean(dim=(2, 3)))


def count_correct(model, loader, device):
    model.eval()
    correct = 0
    with torch.no_grad():
        for sounds, digits in loader:
            predicted = model(sounds.to(device)).argmax(dim=1)
            correct += (predicted == digits.to(device)).sum().item()
    return correct


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    size = SIZES[args.size]

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    paths, source = recordings(args.data_dir)
    print(f"data: {source}")
    held_out = [path for path in paths if int(path.stem.split("_")[2]) < 5]
    training = [path for path in paths if path not in held_out]
    train_loader = DataLoader(Spectrograms(training), batch_size=20, shuffle=True)
    test_loader = DataLoader(Spectrograms(held_out), batch_size=50)

    model = Listener(size["width"]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(args.epochs or size["epochs"]):
        model.train()
        for sounds, digits in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(sounds.to(device)), digits.to(device))
            loss.backward()
            optimizer.step()
        correct = count_correct(model, test_loader, device)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, test accuracy {correct}/{len(held_out)}")


if __name__ == "__main__":
    main()
