"""Networks that receive `conv`, `dense`, `norm` and `act` as callables and never ask which."""
