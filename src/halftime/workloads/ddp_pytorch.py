"""A small network on MNIST over several processes, as torchrun starts them."""

import argparse
import os

import handwriting
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

SIZES = {"small": {"width": 64, "images": 8000, "epochs": 3},
         "full": {"width": 2048, "images": 60_000, "epochs": 20}}  # fmt: skip


class Digits(Dataset):
    def __init__(self, images, labels):
        self.images = images
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = torch.tensor(self.images[index], dtype=torch.float32).flatten()
        return (image / 255 - 0.1307) / 0.3081, int(self.labels[index])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    size = SIZES[args.size]

    several = "RANK" in os.environ
    on_gpu = torch.cuda.is_available()
    if several:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank() if several else 0
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else "cpu"
    torch.manual_seed(0)
    data = handwriting.load(args.data_dir, size["images"], 1000)
    if rank == 0:
        print(f"data: {data.source}")
    train_set = Digits(data.train_images, data.train_labels)
    test_set = Digits(data.test_images, data.test_labels)
    sampler = DistributedSampler(train_set) if several else None
    train_loader = DataLoader(train_set, 64, shuffle=sampler is None, sampler=sampler)
    test_loader = DataLoader(test_set, 250)

    width = size["width"]
    model = nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10)).to(device)
    if several:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(args.epochs or size["epochs"]):
        if sampler is not None:
            sampler.set_epoch(epoch)
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            correct = sum(
                (model(images.to(device)).argmax(dim=1).cpu() == labels).sum().item()
                for images, labels in test_loader
            )
        if rank == 0:
            print(f"epoch {epoch + 1}: test accuracy {correct}/{len(test_set)}")
    if several:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
