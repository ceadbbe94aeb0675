"""Real processes under faults: what is lost, doubled or wrong when anything is killed, frozen or cut off."""
