"""AG2's JSON in the two text forms of MAST's release, written from their description."""


def listing(data):
    """Header and messages as an indented list."""
    lines = [
        f"instance_id: {data['instance_id']}",
        "problem_statement:",
        *(f"      {line}" for line in data["problem_statement"]),
        "other_data:",
        *(f"      {key}: {value}" for key, value in data["other_data"].items()),
        "",
        "trajectory:",
    ]
    for turn in data["trajectory"]:
        lines += ["      content:", *(f"            {line}" for line in turn["content"])]
        lines += [f"      role: {turn['role']}", f"      name: {turn['name']}"]
    return "\n".join(lines) + "\n"


def reprs(data):
    """The messages alone, as Python writes dictionaries."""
    return " ".join(repr(turn) for turn in data["trajectory"])
