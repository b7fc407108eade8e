"""Nodes and pools: who is there, what each has and does, and what can be done about it."""

from __future__ import annotations

from rota.model.states import NodeState
from rota.web.pages.asked import Asked
from rota.web.pages.lists import list_page
from rota.web.pages.options import changes_of, fields_for
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.things import ThingDeed, add_deeds, deeds_for, is_in
from rota.web.pages.writing import piece

RUNNING_SHOWN = 100
NODES_SHOWN = 500

# fmt: off
NODE_DEEDS = {
    "drain":  ThingDeed("node.drain", "Drain", "claims nothing more", fits=lambda node: node["drain_asked_at"] is None),
    "resume": ThingDeed("node.resume", "Resume", "claims again", fits=lambda node: node["drain_asked_at"] is not None),
    "forget": ThingDeed("node.forget", "Forget", "was forgotten",
                        "It is for a node that is gone for good. Runs that were for it alone are missed then.",
                        ends_it=True,
                        fits=lambda node: node["state"] == NodeState.GONE.value or node["silent"]),
}
POOL_DEEDS = {
    "pause":  ThingDeed("pool.pause", "Pause", "is paused", fits=is_in("active")),
    "resume": ThingDeed("pool.resume", "Resume", "goes on", fits=is_in("paused")),
    "delete": ThingDeed("pool.delete", "Delete", "was deleted",
                        "Nothing may name it any more: no job, no unfinished run, and no node that is there.",
                        ends_it=True),
}
# fmt: on
add_deeds("node", "/nodes", NODE_DEEDS)
add_deeds("pool", "/pools", POOL_DEEDS)


@page("/nodes", "nodes.html", title="Nodes", key="n", place=70, live=5)
def show_nodes(asked: Asked) -> Context:
    return list_page(asked, "node.list", "/nodes", ("search",))


@page("/nodes/{name}", "node.html", live=5)
def show_node(asked: Asked) -> Context:
    node = asked.look("node.show", asked.piece("name"))
    return {
        "node": node,
        "now": asked.now(),
        "running": node["running"][:RUNNING_SHOWN],
        "events": node["events"][::-1],
        "deeds": deeds_for(asked, NODE_DEEDS, node),
    }


@page("/pools", "pools.html", title="Pools", key="p", place=80, live=5)
def show_pools(asked: Asked) -> Context:
    return list_page(asked, "pool.list", "/pools", ("search",)) | {"may_add": asked.may("pool.create")}


@page("/pools/{name}", "pool.html", live=5)
def show_pool(asked: Asked) -> Context:
    pool = asked.look("pool.show", asked.piece("name"))
    return {
        "pool": pool,
        "now": asked.now(),
        "served_by": pool["served_by"][:NODES_SHOWN],
        "deeds": deeds_for(asked, POOL_DEEDS, pool),
        "may_edit": asked.may("pool.edit"),
    }


@page("/pools/{name}/edit", "pool_edit.html")
def ask_to_edit_pool(asked: Asked) -> Context:
    asked.check_may("pool.edit")
    pool = asked.look("pool.show", asked.piece("name"))
    return {"pool": pool, "fields": fields_for(asked, "pool.create", pool | {"nodes": pool["patterns"]})}


@act("/pools/{name}/edit")
def edit_pool(asked: Asked) -> Done:
    asked.check_may("pool.edit")
    name, changes = asked.piece("name"), changes_of(asked, "pool.create")
    if changes:
        asked.do("pool.edit", name, changes)
    said = f"pool {name} was changed: {', '.join(changes)}" if changes else "nothing was changed"
    return Done(said, f"/pools/{piece(name)}")


@act("/pools/{name}/add")
def add_member(asked: Asked) -> Done:
    name, node = asked.piece("name"), asked.word("node")
    asked.do("pool.add", name, {"node": node})
    return Done(f"node {node} is a member of pool {name}", f"/pools/{piece(name)}")


@act("/pools/{name}/remove")
def remove_member(asked: Asked) -> Done:
    name, node = asked.piece("name"), asked.word("node")
    asked.do("pool.remove", name, {"node": node})
    return Done(f"node {node} is no member of pool {name} any more", f"/pools/{piece(name)}")


@page("/new/pool", "pool_edit.html")
def ask_for_pool(asked: Asked) -> Context:
    asked.check_may("pool.create")
    return {"pool": None, "fields": fields_for(asked, "pool.create")}


@act("/new/pool")
def create_pool(asked: Asked) -> Done:
    pool = asked.do("pool.create", asked.word("name"), changes_of(asked, "pool.create"))
    return Done(f"pool {pool['name']} was created", f"/pools/{piece(pool['name'])}")
