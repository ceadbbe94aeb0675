"""The pipeline's topics on a broker that many tests share."""

import asyncio
import re

from aiokafka.admin import AIOKafkaAdminClient

from app.options import SERVICES
from app.topics import TOPICS

OURS = re.compile("|".join(f"{topic.name}$" for topic in TOPICS) + f"|({'|'.join(SERVICES)})-.*-changelog$")


async def remove_topics(bootstrap: str) -> None:
    """Other tests may have left them with other partition counts, and offsets that no log has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        while left := [name for name in await admin.list_topics() if OURS.match(name)]:
            await admin.delete_topics(left)
            await asyncio.sleep(0.1)
    finally:
        await admin.close()
