"""Critics by family. Only files in here import torch, and only the families that need it."""
