"""Ground truth: families of operators that make trajectories.

`DOMAINS` names the config of each family; a config's `build()` gives the Domain. To add a
family, write a Domain in a file of its own and name its config here: tests/test_domains.py
then holds it to what every domain promises.
"""

from spinlock.domains.base import DomainConfig
from spinlock.domains.cno import CNOConfig

DOMAINS: dict[str, type[DomainConfig]] = {"cno": CNOConfig}
