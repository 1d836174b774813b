"""Ground truth: families of operators that make trajectories.

To add a family, write a Domain in a file of its own and name its config in AnyDomain: recipes
then accept its `kind`, and tests/test_domains.py holds it to what every domain promises.
"""

from typing import TypeAlias

from spinlock.domains.cno import CNOConfig

# With a second family: Annotated[CNOConfig | OtherConfig, Field(discriminator="kind")].
AnyDomain: TypeAlias = CNOConfig
