"""As much of JSON Schema as ours use, so that tests can hold files against them."""

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
LIMITS = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "minItems": lambda value, limit: len(value) >= limit,
    "minLength": lambda value, limit: len(value) >= limit,
    "enum": lambda value, limit: value in limit,
}
SAID = {"$schema", "$defs", "title", "description", "default"}
INSIDE = {"type", "properties", "additionalProperties", "required", "items"}


def violations(value, root, schema=None, place="$"):
    """Where a value is not as the schema says, as ``$.key[0]: reason``."""
    schema = root if schema is None else schema
    if "$ref" in schema:
        return violations(value, root, root["$defs"][schema["$ref"].rpartition("/")[2]], place)
    if "anyOf" in schema:
        fits = any(not violations(value, root, one) for one in schema["anyOf"])
        return [] if fits else [f"{place}: none of several"]
    assert set(schema) <= SAID | INSIDE | set(LIMITS), schema
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{place}: not of type {kind}"]
    if broken := [name for name in LIMITS if name in schema and not LIMITS[name](value, schema[name])]:
        return [f"{place}: {broken[0]}"]
    return _inside(value, root, schema, place)


def _inside(value, root, schema, place):
    found = []
    if isinstance(value, dict):
        assert schema["additionalProperties"] is False, schema
        known = schema["properties"]
        found += [f"{place}.{key}: missing" for key in schema.get("required", ()) if key not in value]
        found += [f"{place}.{key}: unknown" for key in value if key not in known]
        for key in known.keys() & value.keys():
            found += violations(value[key], root, known[key], f"{place}.{key}")
    for number, item in enumerate(value if isinstance(value, list) else ()):
        found += violations(item, root, schema["items"], f"{place}[{number}]")
    return found
