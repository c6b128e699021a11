"""What requests may name: the critics of a server, and the ensembles of them."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from adjudge_server.definitions import Definition
from adjudge_server.ensembles import Ensemble, member_templates, of_member
from adjudge_server.errors import NotReady, UnknownModel, UnsupportedOperation, shortened
from adjudge_server.judge import Judge
from adjudge_server.models_file import ModelsFile
from adjudge_server.moving import Mover
from adjudge_server.resident import Resident, Serve
from adjudge_server.templates import Template

NO_WEIGHTS = "there are no weights at work"


class Models:
    """Answers NotReady until `serve`. Any judge may give its place to another at any time."""

    def __init__(self, file: ModelsFile, pool: Executor, serve: Serve) -> None:
        self.critics = [Resident(critic, pool, serve) for critic in file.critics]
        self._definitions: Sequence[Definition] = file.ensembles
        self._ensembles: dict[str, Ensemble] = {}
        self._default = file.default
        self._is_loaded = False
        self._moving = threading.Lock()
        """Held while a judge is replaced, and while several are looked up."""

    @property
    def names(self) -> list[str]:
        """The default one first; without those that only their checkpoints could tell."""
        critics = [critic.name for critic in self.critics if critic.name]
        names = [*critics, *(definition.name for definition in self._definitions)]
        return sorted(names, key=lambda name: name != self._default)

    def check(self, templates: Mapping[str, Sequence[Template]]) -> None:
        """Given what each critic will be asked with, by its name: raises Misconfigured where an
        ensemble asks for a template that its critic does not have."""
        for definition in self._definitions:
            member_templates(definition, templates)

    def serve(self, judges: Sequence[Judge[Any]]) -> None:
        """From now on, by these judges of the critics, in their order."""
        cards = {judge.card.name: judge.card for judge in judges}
        self._ensembles = {d.name: Ensemble(d, cards) for d in self._definitions}
        self._default = self._default or judges[0].card.name
        for critic, judge in zip(self.critics, judges, strict=True):
            self.replace(critic, judge)
        self._is_loaded = True

    def replace(self, critic: Resident, judge: Judge[Any] | None) -> None:
        """From any thread."""
        with self._moving:
            critic.judge = judge

    def find(self, name: str) -> Judge[Any] | Ensemble:
        """Of a request's `model`; empty: the default. Raises NotReady, UnknownModel."""
        name = name or self._default
        ensemble = self._ensembles.get(name)
        return self._judge(name) if ensemble is None else ensemble

    def judges(self, ensemble: Ensemble) -> list[Judge[Any]]:
        """Of its members, in their order, all of one moment. Raises NotReady."""
        with self._moving:
            found = {name: self._critic(name).judge for name in ensemble.critics}
        judges = []
        for name in (member.critic for member in ensemble.members):
            if (judge := found[name]) is None:
                raise of_member(NotReady(NO_WEIGHTS), name)
            judges.append(judge)
        return judges

    def mover(self, name: str) -> Mover:
        """Of a critic; empty: the default. Raises as `find` does, and UnsupportedOperation."""
        name = name or self._default
        if name in self._ensembles:
            raise UnsupportedOperation(
                "the weights of an ensemble are those of its critics: name one of them",
                field="model",
            )
        mover = self._critic(name).mover
        if mover is None:
            raise NotReady("the critic is loading")
        return mover

    def is_served(self, name: str) -> bool:
        """Whether a model can answer; of an ensemble, whether all its critics can."""
        ensemble = next((d for d in self._definitions if d.name == name), None)
        critics = {name} if ensemble is None else {member.critic for member in ensemble.members}
        return all(critic.is_served for critic in self.critics if critic.name in critics)

    def _judge(self, name: str) -> Judge[Any]:
        judge = self._critic(name).judge
        if judge is None:
            several = len(self.critics) > 1
            raise NotReady(f"{name}: {NO_WEIGHTS}" if several else NO_WEIGHTS)
        return judge

    def _critic(self, name: str) -> Resident:
        if not self._is_loaded:
            raise NotReady(NO_WEIGHTS)
        for critic in self.critics:
            if critic.name == name:
                return critic
        known = shortened(", ".join(map(repr, self.names)), 200)
        raise UnknownModel(
            f"no model {shortened(name)!r} is served, but {known}", field="model", model=name
        )
