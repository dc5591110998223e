"""Downloads from the Hugging Face hub. Knows neither bases nor datasets. No torch."""
