"""The whole pipeline on real parts, judged by the checker in tests/oracle. LT_SOAK=1 (make soak) runs everything longer."""
