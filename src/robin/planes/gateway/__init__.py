"""The egress gateway: a forward proxy with callers, rules, an address guard and a TLS bridge."""
