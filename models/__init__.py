"""The words of the system: values, commands, events and reasons, as frozen pydantic models.

Money, prices and quantities are integers with the unit in the name. Decimals exist only at the edges.
"""
