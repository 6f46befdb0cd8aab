"""What a prepare step does to rows before they are split: reading, cleaning, comparing, and the data card."""
