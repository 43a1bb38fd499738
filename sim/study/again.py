"""A study once more, from the manifest of its results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.errors import StudyError
from sim.study.plan import Corpus, Plan, kept_corpus, read_corpus
from sim.study.points import Files
from sim.study.spec import Study
from sim.study.store import read_manifest


@dataclass(frozen=True)
class Again:
    """What the manifest at ``path`` tells; the files it names are the copies beside it, as far as there are any."""

    path: Path
    told: dict[str, Any]
    study: Study
    files: Files

    @classmethod
    def of(cls, path: Path) -> Again:
        """Raises StudyError for what is no manifest, or none of this version."""
        told = read_manifest(path)
        try:
            study = Study.model_validate(told["study"])
        except (ValidationError, KeyError) as error:
            raise StudyError(f"{path}: no study of this version of workspan; install {told.get('workspan')}") from error
        places = ((name, path.parent / place) for name, place in told.get("inputs", {}).items())
        return cls(path, told, study, Files(kept={name: place for name, place in places if place.exists()}))

    def corpus(self) -> Corpus:
        """The workflows as they were."""
        kept = self.files.kept.get("workflows")
        return (
            kept_corpus(kept, self.told["traces"]["documents_skipped"])
            if kept
            else read_corpus(self.study, self.files)[0]
        )

    def check(self, plan: Plan) -> None:
        """Raise StudyError where the plan would give other results than those of the manifest."""
        now = plan.manifest()
        if changed := [name for name in now if now[name] != self.told.get(name)]:
            raise StudyError(
                f"{self.path}: {', '.join(changed)} not as then, so results would differ; restore them, or run the"
                " study's own file"
            )
