"""Which of the addresses of a name may be connected to: a pure judgement between the name's resolution and the connect."""

from collections.abc import Sequence

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.verdict import Permit


def refuse_own_listeners(permit: Permit, addresses: Sequence[ResolvedAddress]) -> Sequence[ResolvedAddress]:
    """Every address, unless one is a listener of this process: Fault `loop`. The name is the operator's, so no address is dropped."""
    if any(address.own_listener for address in addresses):
        raise Fault("loop", "own_address: {upstream_url} leads back to this Robin")
    return addresses
