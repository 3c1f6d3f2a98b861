"""``lodestem faults``: the list of faults that nights are tested against."""

from __future__ import annotations

from controller.cli.output import command
from controller.hardware.faults import fault_table


def faults_command(*, as_json: bool) -> None:
    """Print number, name, where, what happens and how it is answered."""
    with command("faults", as_json=as_json) as output:
        table = fault_table()
        lines = [
            f"{row['number']:>2}  {row['name']:<19}{row['where']:<13}{row['effect']}\n"
            f"{'':36}-> {row['answer']}"
            for row in table
        ]
        output.result({"faults": table}, "\n".join(lines))
