"""Who of a group works at which partition, and who follows it: Faust's assignor with another rule inside.

Faust gives a dead worker's partition to its standby only as far as that one has room;
the others start from nothing. Here the standby always gets it, and the balance is made good with partitions
whose owners live: those work on until their successors have the tables, so moving them costs no time.
"""

from collections.abc import Mapping
from typing import Any

from faust.assignor.client_assignment import ClientAssignment, CopartitionedAssignment
from faust.assignor.partition_assignor import PartitionAssignor

BY_WORKER, BY_PARTITION = "one-transaction-a-worker", "faust"
"""Names under which members join: Kafka chooses one that all of a group offer, the release before Faust's.

It tells each member how the others commit: a worker for all its partitions, or by partition.
"""


class Assignor(PartitionAssignor):
    """Faust's protocol and metadata; `distribute` decides.

    `offers` are the names under which this worker joins, `chosen` is the one that the group has now.
    """

    def __init__(self, app: Any, replicas: int = 0) -> None:
        super().__init__(app, replicas)
        self.offers = [BY_PARTITION]
        self.chosen = BY_PARTITION

    @property
    def name(self) -> str:
        return ",".join(self.offers)

    @property
    def is_by_worker(self) -> bool:
        """Whether every member of the group commits for all its partitions together."""
        return self.chosen == BY_WORKER

    def has_outgrown_release_before(self) -> bool:
        """Whether only now everybody knows the new way. From here on the release before is not let in.

        It takes partitions over by the old way alone, and would not see what a worker has under way.
        """
        if not self.is_by_worker or self.offers == [BY_WORKER]:
            return False
        self.offers = [BY_WORKER]
        return True

    def _perform_assignment(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        clients = {member: self._get_client_metadata(told) for member, told in member_metadata.items()}
        subscriptions = {member: list(told.subscription) for member, told in member_metadata.items()}
        topics = {topic for subscribed in subscriptions.values() for topic in subscribed}
        self._update_member_urls(clients)
        assignments = {member: ClientAssignment(actives={}, standbys={}) for member in clients}
        group_ids: dict[str, int] = {}
        groups = self._get_copartitioned_groups(topics, cluster, subscriptions)
        for group_id, (count, together) in enumerate(sorted(groups.items())):
            for each in together:
                group_ids.update(dict.fromkeys(each, group_id))
                held = {
                    member: told.assignment.copartitioned_assignment(each)
                    for member, told in clients.items()
                    if each.issubset(subscriptions[member])
                }
                for member, part in distribute(held, count, self.replicas).items():
                    part.topics = each
                    assignments[member].add_copartitioned_assignment(part)
        return self._protocol_assignments(
            assignments,
            self._get_changelog_distribution(assignments),
            self._get_external_topic_distribution(assignments),
            group_ids,
        )


def distribute(
    held: Mapping[str, CopartitionedAssignment], partitions: int, replicas: int
) -> dict[str, CopartitionedAssignment]:
    """Give every partition one owner and `replicas` standbys, as far as there are other members.

    What stays where it is costs nothing, so: owners keep what they have; what has lost its owner goes to a
    standby, else to whoever has least; then the one with most gives to the one with least, from what has a
    living owner, first what the other has as a standby. No two members differ by more than one, except when
    all that could be given has just lost its owner.
    """
    members = sorted(held)
    followers = {p: [m for m in members if p in held[m].standbys] for p in range(partitions)}
    owners = {p: m for m in members for p in held[m].actives if p < partitions}
    before = dict(owners)
    for partition in range(partitions):
        if partition not in owners:
            owners[partition] = _least_loaded(followers[partition] or members, owners)
    while (most := max(members, key=_load(owners))) != (least := _least_loaded(members, owners)):
        if _load(owners)(most) - _load(owners)(least) <= 1:
            break
        movable = [p for p, owner in owners.items() if owner == most and p in before]
        if not movable:
            break
        owners[min(movable, key=lambda p: (least not in followers[p], p))] = least
    standbys = _standbys(members, owners, before, followers, min(replicas, len(members) - 1))
    return {
        member: CopartitionedAssignment(
            {p for p, owner in owners.items() if owner == member},
            {p for p, chosen in standbys.items() if member in chosen},
        )
        for member in members
    }


def _standbys(
    members: list[str],
    owners: Mapping[int, str],
    before: Mapping[int, str],
    followers: Mapping[int, list[str]],
    replicas: int,
) -> dict[int, list[str]]:
    """Choose standbys: who was the owner or a standby has the tables; the rest goes to who follows least."""
    chosen: dict[int, list[str]] = {}
    for partition, owner in sorted(owners.items()):
        warm = [*filter(None, [before.get(partition)]), *followers[partition]]
        chosen[partition] = [m for m in dict.fromkeys(warm) if m != owner][:replicas]
    counts = {m: sum(m in each for each in chosen.values()) for m in members}
    for partition, each in chosen.items():
        while len(each) < replicas:
            others = [m for m in members if m != owners[partition] and m not in each]
            least = min(others, key=lambda m: counts[m])
            each.append(least)
            counts[least] += 1
    _even_out(members, owners, chosen, counts)
    return chosen


def _even_out(
    members: list[str], owners: Mapping[int, str], chosen: dict[int, list[str]], counts: dict[str, int]
) -> None:
    """Let who follows most give to who follows least, one by one, until they differ by one at most."""
    while True:
        by_count = sorted(members, key=lambda m: counts[m])
        for least, most in ((a, b) for a in by_count for b in reversed(by_count)):
            if counts[most] - counts[least] > 1:
                movable = [
                    p for p, each in chosen.items() if most in each and least not in [*each, owners[p]]
                ]
                if movable:
                    chosen[movable[0]][chosen[movable[0]].index(most)] = least
                    counts[most] -= 1
                    counts[least] += 1
                    break
        else:
            return


def _load(owners: Mapping[int, str]) -> Any:
    return lambda member: sum(owner == member for owner in owners.values())


def _least_loaded(members: list[str], owners: Mapping[int, str]) -> str:
    return min(members, key=_load(owners))
