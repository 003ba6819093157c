"""Four learning rates with three seeds each, and their picture."""

import fedlite

if __name__ == "__main__":
    rates = [6.0, 12.0, 24.0, 48.0]
    changes = {"training.learning_rate": rates, "federation.rounds": 30}
    swept = fedlite.sweep("quickstart", set=changes, seeds=[1, 2, 3], progress=True)
    print(swept.compare().save("experiment"))
