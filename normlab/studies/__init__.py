"""Questions as data: setups, claims, the runs that they need, and the rules that decide them."""
