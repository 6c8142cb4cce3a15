"""The figures of an ablation's report, as SVG."""
