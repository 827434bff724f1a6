"""World models learned on a recorded buffer, without a policy (appendix C.4)."""
