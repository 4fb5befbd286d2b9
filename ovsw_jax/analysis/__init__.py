"""What a run left behind: its metrics, silent-weight statistics, figures."""
