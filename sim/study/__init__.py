"""What-if studies: policies over many workflows, servers and loads, with statistics that hold."""

from sim.study.results import Results, open_results
from sim.study.spec import Study

__all__ = ["Results", "Study", "open_results"]
