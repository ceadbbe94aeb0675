"""Consumer groups from outside: who is in one, and how to put a dead member out of it at once.

Anyone may send LeaveGroup for a member. The parent of a killed worker knows of its death first; without a
word from it the group would wait for the session timeout, and its partitions with it. A member is told by its
client id, which is unique for every start of every worker: nothing has to be learned from the worker, and
the living are never mistaken for the dead.
"""

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from aiokafka import errors
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest

from app.engine.kafka.cluster import RETRIABLE, Cluster, retry

log = logging.getLogger(__name__)

GROUP = 0
ANSWER_S_MAX = 10.0
LOOK_AGAIN_S = (0.0, 0.3, 1.5)
"""A join that was under way when its sender died may reach the broker a little later."""

ADDRESSES_EVERY_S = 2.0

STABLE = "Stable"
STABLE_POLL_S = 0.1


class Group(NamedTuple):
    """A group's state in Kafka's word, and its members: {member id: client id}, {member id: web address}."""

    state: str
    members: dict[str, str]
    urls: dict[str, str]


class Groups:
    """The consumer groups of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def describe(self, group: str) -> Group:
        """Waits for the broker as long as it takes."""
        response = await self._ask(group, DescribeGroupsRequest([group]))
        _, _, state, _, _, members, *_ = response.groups[0]
        urls = {member_id: url_in(metadata) for member_id, _, _, metadata, _ in members}
        return Group(
            state,
            {member_id: client_id for member_id, client_id, *_ in members},
            {member_id: url for member_id, url in urls.items() if url is not None},
        )

    async def until_stable(self, group: str, members_min: int) -> None:
        """Wait until the group has so many members, and they have agreed on who does what."""
        while True:
            found = await self.describe(group)
            if found.state == STABLE and len(found.members) >= members_min:
                return
            await asyncio.sleep(STABLE_POLL_S)

    async def remove(self, group: str, is_dead: Callable[[str], bool]) -> None:
        """Let every member leave whose client id is a dead one's; looks more than once, and never raises."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                for pause_s in LOOK_AGAIN_S:
                    await asyncio.sleep(pause_s)
                    await self._remove_now(group, is_dead)
        except TimeoutError:
            log.warning(
                "group %s: no answer from its coordinator, so a dead member stays until its time", group
            )
        except errors.KafkaError as error:
            log.warning("group %s: a dead member stays until its time: %r", group, error)

    async def _remove_now(self, group: str, is_dead: Callable[[str], bool]) -> None:
        members = (await self.describe(group)).members
        for member_id, client_id in members.items():
            if is_dead(client_id):
                await self._ask(group, LeaveGroupRequest(group, member_id), errors.UnknownMemberIdError)
                log.info("group %s: %s has left", group, client_id)

    async def _ask(self, group: str, request: object, *fine: type[errors.KafkaError]) -> Any:
        """Ask the group's coordinator until it gives an answer; raises an error that is not `fine`."""

        async def attempt() -> Any:
            try:
                node = await self._cluster.coordinator(GROUP, group)
                response = await self._cluster.send(node, request)
                _raise(response.groups[0][0] if hasattr(response, "groups") else response.error_code, fine)
            except RETRIABLE:
                self._cluster.forget_coordinator(GROUP, group)
                raise
            return response

        return await retry(attempt)


class _Told(msgspec.Struct):
    """What a Faust worker tells its group of itself, as far as it matters here."""

    url: str


def url_in(metadata: bytes) -> str | None:
    """The address of a worker's web server; None when the member is none of ours, or has not told yet."""
    try:
        said = ConsumerProtocolMemberMetadata.decode(metadata)
        return msgspec.json.decode(said.user_data, type=_Told).url.rstrip("/")
    except (ValueError, TypeError, struct.error) as error:
        log.debug("a member without an address: %r", error)
        return None


async def keep_addresses(groups: Groups, addresses: dict[str, str]) -> None:
    """Keep `addresses`, {service: the web address of one of its workers}, as the consumer groups have it.

    A service that nobody works for has "" there. Runs until it is cancelled.
    """
    while True:
        for service in list(addresses):
            found = await groups.describe(service)
            addresses[service] = min(found.urls.values(), default="")
        await asyncio.sleep(ADDRESSES_EVERY_S)


def _raise(code: int, fine: tuple[type[errors.KafkaError], ...]) -> None:
    error = errors.for_code(code)
    if code and error not in fine:
        raise error()
