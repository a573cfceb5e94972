"""The chains as text: whatever the tables hold, our chains end up right and nothing else moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from k8slite.network.firewall import Chain, bare, edits, forward, masquerade, removal

NET = "172.16.0.0/16"
CHAINS = st.sampled_from([forward(NET, ["192.168.0.10"], 8080), masquerade(NET, "k8slite0")])


class Table:
    """iptables-save and iptables-restore, as far as they matter here."""

    def __init__(self, chains: dict[str, list[str]]) -> None:
        self.chains = chains

    def listing(self) -> str:
        heads = [f":{name} {'ACCEPT' if name.isupper() else '-'} [0:0]" for name in self.chains]
        rules = [f"-A {name} {body}" for name, found in self.chains.items() for body in found]
        return "\n".join(["*any", *heads, *rules, "COMMIT"])

    def restore(self, lines: list[str]) -> None:
        for line in lines:
            words = line.split()
            if line.startswith(":"):
                self.chains[words[0][1:]] = []
            elif words[0] == "-A":
                self.chains[words[1]].append(" ".join(words[2:]))
            elif words[0] == "-I":
                self.chains[words[1]].insert(int(words[2]) - 1, " ".join(words[3:]))
            elif words[0] == "-D":
                self.chains[words[1]].remove(" ".join(words[2:]))
            elif words[0] == "-X":
                assert not self.chains.pop(words[1])
            else:
                raise AssertionError(line)


def bodies(chain: Chain) -> st.SearchStrategy[list[str]]:
    foreign = st.sampled_from(["-j DOCKER-USER", "-s 10.0.0.0/8 -j DROP", "-o docker0 -j ACCEPT"])
    return st.lists(st.one_of(foreign, st.just(f"-j {chain.name}")), max_size=5)


@given(st.data(), CHAINS)
def test_chains_converge_in_one_step_and_foreign_rules_keep_their_order(
    data: st.DataObject, chain: Chain
) -> None:
    found = {chain.builtin: data.draw(bodies(chain))}
    if data.draw(st.booleans()) or f"-j {chain.name}" in found[chain.builtin]:
        rules = [rule.split(maxsplit=2)[2] for rule in chain.rules]
        found[chain.name] = data.draw(st.lists(st.sampled_from([*rules, "-j DROP"]), max_size=4))
    foreign = [body for body in found[chain.builtin] if chain.name not in body]
    table = Table(found)
    table.restore(edits(table.listing(), chain))
    assert table.chains[chain.builtin] == [f"-j {chain.name}", *foreign]
    assert [f"-A {chain.name} {body}" for body in table.chains[chain.name]] == list(chain.rules)
    assert edits(table.listing(), chain) == []
    table.restore(removal(table.listing(), chain))
    assert table.chains == {chain.builtin: foreign}
    assert removal(table.listing(), chain) == []


def test_what_stays_within_the_pod_network_keeps_its_address() -> None:
    assert masquerade(NET, "k8slite0").rules == (
        "-A K8SLITE-MASQ -s 172.16.0.0/16 -d 172.16.0.0/16 ! -o k8slite0 -j ACCEPT",
        "-A K8SLITE-MASQ -s 172.16.0.0/16 ! -d 172.16.0.0/16 -j MASQUERADE",
    )


def test_an_empty_table_is_told_from_one_that_does_something() -> None:
    assert bare("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT")
    assert bare("")
    assert not bare("*filter\n:FORWARD DROP [0:0]\nCOMMIT")
    assert not bare("*nat\n:PREROUTING ACCEPT [0:0]\n:MINE - [0:0]\nCOMMIT")
    assert not bare("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\nCOMMIT")


def test_a_masters_ipv6_address_is_no_rule_of_ipv4() -> None:
    assert forward(NET, ["fd00::1"], 8080) == forward(NET)
